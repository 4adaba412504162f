"""A detector that learns beside a policy: when, from what, resumed to the bit, and alike on two ranks."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from realgen.callbacks import LastCheckpoint, Preemption, ValidationRows
from realgen.cli.finishing import finish
from realgen.data import PromptShards
from realgen.data.detector_pairs import PairSettings, Photographs
from realgen.data.shards import write_shards
from realgen.detectors import OmniAID, OmniAIDNetwork, RoutedExperts, save
from realgen.modules import detector_learning
from realgen.modules.data_anchor import through_vae
from realgen.modules.detector_learning import DetectorLearning
from realgen.modules.detector_training import DetectorTraining, find_detector
from realgen.rewards import Realism, WeightedSum
from realgen.types import Samples
from tests.helpers.shadow_device import shadow_device
from tests.helpers.shadow_trainer import OneOfTwoRanks, shadow_training
from tests.helpers.tiny_pipelines import write_sd3
from tests.helpers.toy_detector import PLAIN, ColorDetector, fill
from tests.helpers.toy_grpo import Color, Prompts, module, trainer
from tests.modules.test_resume import Send, assert_same
from tests.strategies.ranks import make_policy, on_ranks

KEY = "DetectorLearning[color]"


def learning(root: Path, **settings: Any) -> DetectorLearning:
    """Reddish photographs, of no prompt; the policy's images are about grey."""
    pairs = {"photographs": fill(root / "real", (200, 60, 60), 12), "held_out": 0.4, "augment": PLAIN}
    pairs |= {"per_step": 2, "replay": 3, "held_out_images": 6, **settings.pop("pairs", {})}
    defaults = {"optimizer": lambda p: torch.optim.AdamW(p, lr=0.1), "max_passes": 3, "threshold": 0.0}
    return DetectorLearning("color", pairs=PairSettings(**pairs), **{**defaults, **settings})


def fit(root: Path, *callbacks: Callback, epochs: int = 2, resume: bool = False, **settings: Any) -> Any:
    """Epochs of two iterations; returns the trainer."""
    reward = WeightedSum({"color": Realism(ColorDetector(dropout=0.5)), "red": Color(0)})
    data = settings.pop("data", Prompts())
    lightning = trainer(root, max_epochs=epochs, callbacks=[*callbacks], limit_val_batches=0, **settings)
    last = str(root / "checkpoints" / "last.ckpt") if resume else None
    lightning.fit(module(reward=reward), data, ckpt_path=last, weights_only=True)
    return lightning


def run(root: Path, epochs: int, *callbacks: Callback, resume: bool = False) -> dict[str, Any]:
    """Train with checkpoints; returns what the last one holds."""
    saving = (Preemption(), learning(root.parent), LastCheckpoint(), *callbacks)  # a signal is seen before it learns
    fit(root, *saving, epochs=epochs, resume=resume, enable_checkpointing=True)
    return torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_resumed_run_equals_a_straight_one_to_the_bit(tmp_path: Path) -> None:
    straight = run(tmp_path / "straight", 2)
    state = straight["callbacks"][KEY]
    assert state["updates"] >= 2
    assert {name: len(rows) for name, rows in state["images"].items()} == {"replay": 3, "recent": 6, "base": 4}
    run(tmp_path / "half", 1)
    resumed = run(tmp_path / "half", 2, resume=True)
    with pytest.raises(SIGTERMException):
        run(tmp_path / "signal", 2, Send(signal.SIGTERM, "on_train_batch_start", 2))
    signalled = run(tmp_path / "signal", 2, resume=True)
    for other in (resumed, signalled):
        for part in ("state_dict", "iteration"):
            assert_same(other[part], straight[part])
        assert_same(other["callbacks"][KEY], state)


def test_what_a_run_was_killed_before_is_exported_from_its_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = tmp_path / "run"
    saved, folder = run(straight, 2), straight / "detector_color"
    expected = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert json.loads(expected["export.json"])["iteration"] == saved["iteration"] == 4
    written = load_file(folder / "model.safetensors")
    for name, average in saved["callbacks"][KEY]["detector"]["averages"].items():
        assert torch.equal(written[name.removeprefix("network.")], average)
    old = {**json.loads(expected["export.json"]), "iteration": 2}
    for harm in (
        lambda: shutil.rmtree(folder),
        lambda: (folder / "export.json").write_text(json.dumps(old)),
        lambda: (folder / "model.safetensors").write_bytes(b""),
        lambda: None,
    ):
        harm()
        lightning = trainer(straight, callbacks=[learning(tmp_path), LastCheckpoint()], enable_checkpointing=True)
        reward = WeightedSum({"color": Realism(ColorDetector(dropout=0.5)), "red": Color(0)})
        assert finish(lightning, module(reward=reward), straight / "checkpoints" / "last.ckpt") == 0
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected
    assert capsys.readouterr().out.count("exported the detector of color") == 3


def test_a_detector_that_never_learns_changes_nothing(tmp_path: Path) -> None:
    without, off, on = fit(tmp_path), fit(tmp_path, learning(tmp_path, warmup_updates=0, threshold=1.0)), None
    for name, weight in without.lightning_module.policy.named_parameters():
        assert torch.equal(weight, off.lightning_module.policy.get_parameter(name))
    on = fit(tmp_path, learning(tmp_path))
    weights = [each.lightning_module.policy.weight for each in (without, on)]
    assert not torch.equal(*weights)  # another reward, and the same random numbers


def test_warm_up_then_only_above_the_threshold(tmp_path: Path) -> None:
    once, always = learning(tmp_path, threshold=1.0), learning(tmp_path, threshold=0.0)
    fit(tmp_path, once)
    rows = ValidationRows()
    numbers = fit(tmp_path, always, rows).callback_metrics
    assert once.updates == 1
    took = {name: float(value) for name, value in numbers.items() if name.startswith("seconds/")}
    assert rows.seconds > sum(took.values()) >= took["seconds/detector_color"] > 0  # of all iterations, with learning
    assert always.updates >= 2
    assert float(numbers["detector/color/updates"]) == always.updates
    assert 0 <= float(numbers["detector/color/replayed"]) < 1


def test_it_learns_until_held_out_images_are_told_apart_and_curves_can_be_read(tmp_path: Path) -> None:
    callback = learning(tmp_path, max_passes=60, target_accuracy=1.0, ema_decay=0.5)
    numbers = {
        name.removeprefix("detector/color/"): float(v) for name, v in fit(tmp_path, callback).callback_metrics.items()
    }
    assert numbers["accuracy"] == numbers["auroc"] == 1.0
    assert numbers["passes"] < 60
    assert numbers["steps"] == callback.steps
    assert numbers["probe/photographs"] > 0.5 > numbers["probe/base"]
    gap = numbers["probe/photographs_before"] - numbers["probe/base_before"]
    expected = (numbers["reward/color"] - numbers["probe/base_before"]) / gap
    assert numbers["reward_rebased"] == pytest.approx(expected, rel=1e-4)


def test_an_error_in_an_update_leaves_the_detector_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback, step = learning(tmp_path), DetectorLearning._step

    def fail(self: DetectorLearning, *args: Any) -> Any:
        step(self, *args)
        raise RuntimeError("no power")

    monkeypatch.setattr(DetectorLearning, "_step", fail)
    with pytest.raises(RuntimeError, match="no power"):
        fit(tmp_path, callback)
    assert callback.steps == callback.updates == len(callback.images["replay"]) == 0
    assert float(callback.training.network.head.weight.detach().abs().max()) == 0


def test_prompts_with_photographs(tmp_path: Path) -> None:
    samples = ({"prompt": "a" * (n + 1), "image": Image.new("RGB", (16, 12), (200, n, 0))} for n in range(12))
    shards = write_shards(samples, tmp_path / "shards")
    data = PromptShards([str(path) for path in shards], prompts_per_iteration=3, train_images=True, image_size=8)
    callback = learning(tmp_path, pairs={"photographs": None})
    fit(tmp_path, callback, data=data)
    assert callback.updates >= 2
    red = callback.images["replay"][:, 0, 0].float()
    assert bool((red == 200).all())  # the prompt's own, and of its size
    data = PromptShards([str(path) for path in shards], prompts_per_iteration=3)
    with pytest.raises(ValueError, match=r"set data.train_images=true, .* as pairs.photographs"):
        fit(tmp_path, learning(tmp_path, pairs={"photographs": None}), data=data)


def test_photographs_go_through_the_policy_s_own_vae(tmp_path: Path) -> None:
    write_sd3(tmp_path / "sd3")
    policy = make_policy(str(tmp_path / "sd3"))
    policy.load()
    owner = module(policy=policy)
    photographs = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = through_vae(owner, photographs)
    vae = policy.backbone.vae
    with torch.no_grad():
        expected = vae.decode(vae.encode(2 * photographs.float() / 255 - 1).latent_dist.mean).sample
    torch.testing.assert_close(found.float(), (127.5 * (expected + 1)).clamp(0, 255), rtol=0, atol=0.6)
    assert through_vae(owner, photographs[:0]).shape == (0, 3, 16, 16)


def test_a_run_goes_on_with_a_smaller_memory_and_not_with_another_size(tmp_path: Path) -> None:
    run(tmp_path / "run", 2)
    smaller, other = learning(tmp_path, pairs={"replay": 2}), learning(tmp_path, pairs={"image_size": 4})
    saving = [Preemption(), smaller, LastCheckpoint()]
    fit(tmp_path / "run", *saving, epochs=3, resume=True, enable_checkpointing=True)
    assert len(smaller.images["replay"]) == 2
    with pytest.raises(ValueError, match=r"pairs.image_size must be 8, as in the run that goes on, got 4"):
        fit(tmp_path / "run", other, epochs=4, resume=True)


def test_the_detector_of_a_name() -> None:
    detector = ColorDetector()
    with pytest.raises(ValueError, match=r"component must be a Realism of the reward \(none\), got 'color'"):
        find_detector(BoringModel(), "color")
    assert find_detector(module(reward=Realism(detector)), "realism") is detector
    with pytest.raises(ValueError, match=r"component must be a Realism of the reward \(color\), got 'red'"):
        find_detector(module(reward=WeightedSum({"color": Realism(detector), "red": Color(0)})), "red")
    for settings, message in (
        ({"ema_decay": 1.0}, "ema_decay must be 0 to below 1"),
        ({"target_accuracy": 90.0}, "target_accuracy must be 0.5 to 1"),
        ({"max_passes": 0}, "max_passes must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            DetectorLearning("color", **settings)


def test_no_collective_gets_a_tensor_of_the_cpu(tmp_path: Path) -> None:
    callback, settings = learning(tmp_path), {"devices": 2, "strategy": OneOfTwoRanks(), "enable_checkpointing": True}
    with shadow_training(), shadow_device():
        fit(tmp_path / "run", callback, LastCheckpoint(str(tmp_path)), **settings)
    assert callback.updates >= 2
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"][KEY]
    assert len(state["images"]["replay"]) == 3


def started(detector: Any, lr: float = 1.0, **settings: Any) -> DetectorLearning:
    """One whose fit has started, with plain steps."""
    callback = DetectorLearning("realism", lambda p: torch.optim.SGD(p, lr=lr), **settings)
    owner, lightning = module(reward=Realism(detector)), trainer(Path())
    callback.setup(lightning, owner, "fit")
    callback.on_fit_start(lightning, owner)
    return callback


def four(size: int = 8) -> Tensor:
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize("microbatch_size", [1, 3, 16])
def test_a_step_is_the_gradient_of_cross_entropy_with_soft_labels(microbatch_size: int) -> None:
    """At logits of zero the gradient of class 1's weight is the mean of (1/2 - target) times the features; the first
    average has decay 1/10."""
    callback = started(ColorDetector(), soft_label=0.1, microbatch_size=microbatch_size)
    before = callback._detector(four())
    state = torch.get_rng_state()
    loss = callback._step(four(), LABELS, 0)
    assert torch.equal(torch.get_rng_state(), state)  # the policy's random numbers stay what they were
    targets = torch.tensor([0.1, 0.1, 0.9, 0.9])
    weight = -((0.5 - targets)[:, None] * four().mean((2, 3))).mean(0)
    torch.testing.assert_close(callback.training.network.head.weight[1], weight)
    torch.testing.assert_close(loss, torch.tensor([math.log(2), 0.0, 0.5]))
    torch.testing.assert_close(callback.averages.weights["network.head.weight"][1], 0.9 * weight)
    assert torch.equal(callback._detector(four()), before)
    callback._judge()
    difference = 1.8 * four().mean((2, 3)) @ weight  # class 0 has the opposite weight; biases are zero
    torch.testing.assert_close(callback._detector(four()), difference.sigmoid())
    with pytest.raises(RuntimeError, match="not finite"):
        callback._step(four() * torch.nan, LABELS, 0)
    assert bool(callback.training.network.head.weight.isfinite().all())


def test_a_step_without_images_of_this_rank_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    callback, added = started(ColorDetector()), list[Any]()

    def with_others(weights: Any, found: Tensor) -> Tensor:
        added.extend([*(weight.grad for weight in weights), found])
        return torch.tensor([0.0, 0.0, 0.0, 1.0])

    monkeypatch.setattr(detector_learning, "average_gradients", with_others)
    callback._step(four()[:0], LABELS[:0], 0)
    assert len(added) == 3
    assert not any(float(each.abs().sum()) for each in added if each is not None)  # NaN would count


def test_reward_and_training_see_the_same_pixels(tmp_path: Path) -> None:
    """The published bug of a peer: features normalised in the reward, and not in training."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
    tower = CLIPVisionModel(CLIPVisionConfig(**sizes, patch_size=8, image_size=16))
    network = OmniAIDNetwork.from_clip_vision(tower, RoutedExperts(4, rank=3, router_hidden=8))
    detector = OmniAID(str(save(network, tmp_path / "start")))
    settings = {"ema_decay": 0.0, "trainable": "experts", "orthogonality_weight": 0.1}
    callback = started(detector, lr=1e-2, **settings)
    start = detector(four(40))
    assert float(callback._step(four(40), LABELS, 0)[1]) > 0
    callback._judge()
    rewards = Realism(detector).score(Samples(("a",), 4, four(40)))
    torch.testing.assert_close(rewards, 1 - callback._p_fake(four(40)), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(1 - rewards, start, atol=1e-5)
    exported = OmniAID(str(callback.training.export(tmp_path / "end")))
    torch.testing.assert_close(1 - exported(four(40)), rewards, rtol=1e-5, atol=1e-6)


class SaveEnd(Callback):
    """Keeps what each rank has at the end."""

    def on_train_end(self, lightning: Trainer, pl_module: Any) -> None:
        (callback,) = [each for each in lightning.callbacks if isinstance(each, DetectorLearning)]
        torch.save(callback.state_dict(), f"{lightning.default_root_dir}/rank{lightning.global_rank}.pt")


@pytest.mark.distributed
def test_two_ranks_have_one_detector_and_one_memory(tmp_path: Path) -> None:
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    several = {"devices": 2, "strategy": strategy, "enable_checkpointing": True}
    fit(tmp_path / "run", learning(tmp_path), LastCheckpoint(), SaveEnd(), **several)
    first, second = (torch.load(tmp_path / "run" / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert first["updates"] >= 2
    assert_same(first, second)
    assert len(first["images"]["replay"]) == 3
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert_same(saved["callbacks"][KEY], first)


class HalfSeen(DetectorTraining):
    """Fails in a step, on the second rank alone."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.distributed.get_rank() == 1:
            raise RuntimeError("no second eye")
        return super().forward(images)


class HalfRead(Photographs):
    """Cannot read, on the second rank alone."""

    def draw(self, *args: Any, **how: Any) -> Tensor:
        if torch.distributed.get_rank() == 1:
            raise RuntimeError("no second disk")
        return super().draw(*args, **how)


@pytest.mark.distributed
@pytest.mark.parametrize("part", [HalfSeen, HalfRead])
def test_what_fails_on_one_rank_ends_both(part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_learning, part.__base__.__name__, part)
    assert on_ranks(on_two, tmp_path) == [0, 0]
    told = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert told[0] == "another rank failed; its message says why."  # and no broken connection
    assert told[1].startswith("no second")


def on_two(rank: int, folder: Path) -> None:
    several = {"devices": 2, "strategy": DDPStrategy(process_group_backend="gloo"), "enable_checkpointing": True}
    with pytest.raises(RuntimeError) as raised:
        fit(folder / "run", learning(folder), LastCheckpoint(), **several)
    (folder / f"{rank}.txt").write_text(str(raised.value))
