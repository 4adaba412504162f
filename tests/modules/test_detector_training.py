"""Training of a detector: the loss by hand, what is trained, what validation finds, and resumed runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from realgen.callbacks import EMA, Export, LastCheckpoint
from realgen.detectors import Effort, EffortNetwork, OmniAID, OmniAIDNetwork, RoutedExperts, save
from realgen.functional.corruptions import CHEATS, HARMLESS
from realgen.modules import DetectorTraining
from tests.helpers.toy_detector import ColorDetector, folders
from tests.helpers.toy_grpo import trainer


def training(detector: Any = None, lr: float = 0.05, **settings: Any) -> DetectorTraining:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=lr)

    return DetectorTraining(detector or ColorDetector(), optimizer=optimizer, **settings)


def fit(module: DetectorTraining, root: Path, *callbacks: Any, **settings: Any) -> Any:
    """One pass of two iterations by default."""
    defaults = {"max_epochs": 1, "limit_train_batches": 1.0, "use_distributed_sampler": False}
    lightning = trainer(root, callbacks=list(callbacks), **{**defaults, **settings})
    lightning.fit(module, folders(root / "images"))
    return lightning


@pytest.fixture
def clip() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
    return CLIPVisionModel(CLIPVisionConfig(**sizes, patch_size=8, image_size=16)).eval()


@pytest.fixture
def omniaid(clip: Any, tmp_path: Path) -> OmniAID:
    """As training from CLIP starts: all experts the same."""
    network = OmniAIDNetwork.from_clip_vision(clip, RoutedExperts(4, rank=3, router_hidden=8))
    return OmniAID(str(save(network, tmp_path / "start")))


def test_the_loss_is_cross_entropy_with_soft_labels(tmp_path: Path) -> None:
    module = training(soft_label=0.1, lr=0.0)
    module.configure_model()
    with torch.no_grad():
        module.network.head.bias.copy_(torch.tensor([0.0, 2.0]))
    fake = math.exp(2) / (1 + math.exp(2))
    real_loss = -(0.9 * math.log(1 - fake) + 0.1 * math.log(fake))
    fake_loss = -(0.1 * math.log(1 - fake) + 0.9 * math.log(fake))
    metrics = fit(module, tmp_path, limit_val_batches=0).callback_metrics
    assert float(metrics["loss"]) == pytest.approx((real_loss + fake_loss) / 2)
    assert float(metrics["accuracy"]) == 0.5


def test_one_step_goes_down_the_gradient(tmp_path: Path) -> None:
    """At logits of zero the gradient of the bias is p - target, zero over a balanced batch; that of the weights is
    half the difference of the classes' mean features times (1/2 - s)."""
    module = training(soft_label=0.05, lr=1.0)
    fit(module, tmp_path, limit_train_batches=1, limit_val_batches=0)
    assert module.iteration == 1
    weight = module.network.head.weight
    assert module.network.head.bias.abs().max() < 1e-6
    torch.testing.assert_close(weight[0], -weight[1])
    expected = 0.45 * (60 / 255) / 2  # real minus generated: +60, -60, 0 levels
    torch.testing.assert_close(weight[0][:2], torch.tensor([expected, -expected]), rtol=0.1, atol=0)
    assert weight[0][2].abs() < 0.05 * expected


def test_the_orthogonality_of_equal_experts_has_its_closed_form(omniaid: OmniAID, tmp_path: Path) -> None:
    """Equal experts with r orthonormal columns, orthogonal to the main part: sqrt(r) for each of the E (E - 1) / 2
    pairs of experts, 0 for the others, over all (E + 1) E / 2 pairs, on both sides."""
    module = training(omniaid, orthogonality_weight=0.01, lr=0.0, trainable="experts")
    metrics = fit(module, tmp_path, limit_train_batches=1, limit_val_batches=0).callback_metrics
    expected = 2 * math.sqrt(3) * (4 - 1) / (4 + 1)
    assert float(metrics["loss/orthogonality"]) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["loss"]) == pytest.approx(float(metrics["loss/classification"]) + 0.01 * expected, rel=1e-5)


def test_the_orthogonality_loss_moves_experts_apart(omniaid: OmniAID, tmp_path: Path) -> None:
    """Experts that are all the same are a stationary point, and so they start a little apart."""
    network = omniaid.build()
    with torch.no_grad():
        for parameter in network.trainable_parameters().values():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    start = OmniAID(str(save(network, tmp_path / "apart")))

    def overlap(weight: float) -> float:
        module = training(start, orthogonality_weight=weight, trainable="experts", lr=0.5)
        fit(module, tmp_path / str(weight), max_epochs=3, limit_val_batches=0)
        return float(module.network.orthogonality_loss(module.network.main_bases()).detach())

    assert overlap(20.0) < overlap(1e-6) - 0.01


@pytest.mark.parametrize(
    ("trainable", "parts"),
    [("experts", {"experts", "head"}), ("experts_and_gate", {"experts", "head", "gating"}), (None, None)],
)
def test_only_what_is_trainable_changes(omniaid: OmniAID, tmp_path: Path, trainable: Any, parts: Any) -> None:
    module = training(omniaid, trainable=trainable, lr=0.5)
    start = {name: value.clone() for name, value in omniaid.build().state_dict().items()}
    fit(module, tmp_path, limit_val_batches=0, max_epochs=2)
    changed = {name for name, value in module.network.state_dict().items() if not torch.equal(value, start[name])}
    words = parts or {"experts", "head", "gating"}  # the network's own choice
    assert all(any(word in name for word in words) for name in changed)
    assert all(any(word in name for name in changed) for word in words)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"soft_label": 0.5}, "soft_label must be 0 to below 0.5, got 0.5"),
        ({"orthogonality_weight": -1.0}, "orthogonality_weight must be at least 0, got -1.0"),
    ],
)
def test_impossible_numbers_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(**settings)


def test_what_cannot_be_trained_is_named(omniaid: OmniAID, clip: Any, tmp_path: Path) -> None:
    effort = Effort(str(save(EffortNetwork.from_clip_vision(clip), tmp_path / "effort")))
    cases = [
        (
            training(omniaid, trainable="expert"),
            r"one of OmniAIDNetwork's \(experts, experts_and_gate, all\), got 'exp",
        ),
        (training(effort, trainable="experts"), r"one of EffortNetwork's \(residual, all\), got 'experts'"),
        (training(effort, orthogonality_weight=0.1), "must be 0 for EffortNetwork, which has no experts"),
        (training(omniaid, orthogonality_weight=0.1, trainable="all"), "must be 0 where the main weights are trained"),
        (training(Linear()), "detector must have a network that can be trained.* Linear has a Linear"),
    ]
    for module, message in cases:
        with pytest.raises(ValueError, match=message):
            module.configure_model()


class Linear(ColorDetector):
    """Has a network of its own kind."""

    def build(self) -> Any:
        return torch.nn.Linear(1, 1)


def test_a_scheduler_that_waits_for_a_metric_is_refused() -> None:
    module = training(lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
    module.configure_model()
    with pytest.raises(ValueError, match="lr_scheduler must not wait for a metric"):
        module.configure_optimizers()


def test_the_scheduler_steps_once_per_iteration(tmp_path: Path) -> None:
    module = training(lr_scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5**step), lr=1.0)
    metrics = fit(module, tmp_path, max_epochs=2, limit_val_batches=0).callback_metrics
    assert float(metrics["lr"]) == 0.125  # of the fourth iteration
    assert module.iteration == 4


def test_validation_tells_colours_apart_after_training_and_not_before(tmp_path: Path) -> None:
    module = training(lr=1.0)
    lightning = trainer(tmp_path, use_distributed_sampler=False)
    lightning.validate(module, folders(tmp_path / "images"), verbose=False)
    before = module.quality["plain"]
    assert (float(before.accuracy), float(before.auroc), float(before.brier)) == (0.5, 0.5, 0.25)
    metrics = fit(module, tmp_path, max_epochs=4).callback_metrics
    assert set(module.quality) == {"plain", *HARMLESS, *(f"cheat_{name}" for name in CHEATS)}
    for condition in ("plain", "jpeg_75", "half_size"):
        assert float(module.quality[condition].accuracy) == 1.0
    assert float(metrics["val/accuracy"]) == float(metrics["val/auroc"]) == float(metrics["val/auroc/crop"]) == 1.0
    # photographs keep their mean colour when they are blurred, so this detector is not cheated into "generated"
    assert float(metrics["val/accuracy/cheat_blur"]) == 0.0
    assert "val/auroc/cheat_blur" not in metrics
    assert "val/real_accuracy/cheat_blur" not in metrics


def test_conditions_can_be_left_out(tmp_path: Path) -> None:
    module = training(corruptions=False, cheats=False)
    fit(module, tmp_path)
    assert set(module.quality) == {"plain"}


def run(root: Path, epochs: int, *, resume: bool = False) -> dict[str, Any]:
    """Train to a pass of two iterations; returns what the checkpoint holds at the end."""
    module = training(ColorDetector(dropout=0.5), lr=1.0)
    lightning = trainer(
        root,
        max_epochs=epochs,
        limit_train_batches=1.0,
        callbacks=[EMA(decay=0.8), LastCheckpoint()],
        enable_checkpointing=True,
        use_distributed_sampler=False,
    )
    last = root / "checkpoints" / "last.ckpt"
    data = folders(root / "images", hard_negatives=0.5)
    lightning.fit(module, data, ckpt_path=str(last) if resume else None, weights_only=True)
    return torch.load(last, weights_only=True)


def test_a_resumed_run_equals_a_straight_one_to_the_bit(tmp_path: Path) -> None:
    straight = run(tmp_path / "straight", 2)
    half = run(tmp_path / "resumed", 1)
    resumed = run(tmp_path / "resumed", 2, resume=True)
    assert (half["iteration"], resumed["iteration"], straight["iteration"]) == (2, 4, 4)
    assert set(straight["state_dict"]) == {"network.head.weight", "network.head.bias"}  # no frozen weight
    for name, value in straight["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name])
        assert not torch.equal(value, half["state_dict"][name])
    averages = [state["callbacks"]["EMA"]["weights"]["network.head.weight"] for state in (straight, resumed)]
    assert torch.equal(*averages)
    assert not torch.equal(averages[0], straight["state_dict"]["network.head.weight"])


def test_a_checkpoint_of_another_choice_is_refused(tmp_path: Path) -> None:
    checkpoint = run(tmp_path, 1)
    module = training(trainable="bias")
    module.configure_model()
    with pytest.raises(ValueError, match=r"differ in 1 trained weights, such as network.head.weight"):
        module.on_load_checkpoint(checkpoint)


def test_what_is_exported_is_loaded_by_the_detector_s_class(omniaid: OmniAID, tmp_path: Path) -> None:
    export, average = Export("detector"), EMA(decay=0.5, warmup=1)
    module = training(omniaid, lr=0.5)
    fit(module, tmp_path, export, average, limit_val_batches=0, max_epochs=2)
    images = torch.rand(3, 3, 20, 20)
    loaded = OmniAID(str(export.path))(images)
    with average.applied(module), torch.no_grad():
        expected = module.eval()(images).softmax(1)[:, 1]
    torch.testing.assert_close(loaded, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(loaded, omniaid(images), atol=1e-4)
