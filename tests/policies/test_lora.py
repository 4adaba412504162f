import pytest
import torch

from realgen.policies import LoRA
from realgen.policies.backbones import SD3
from realgen.policies.lora import adapter_config


@pytest.fixture
def transformer(sd3: str):
    backbone = SD3(sd3)
    backbone.load()
    return backbone.transformer


def trained(transformer) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in transformer.named_parameters() if p.requires_grad}


def test_only_adapters_are_trained(transformer) -> None:
    base = {name for name, _ in transformer.named_parameters()}
    LoRA(rank=2).attach(transformer, ("to_q", "to_out.0"))
    names = trained(transformer)
    assert len(names) == 2 * 2 * 2  # two blocks, two layers, A and B
    assert all("lora_" in name for name in names)
    assert base <= {name.replace(".base_layer", "") for name, _ in transformer.named_parameters()}


def test_the_start_is_the_reference_and_the_same_everywhere(sd3: str) -> None:
    starts = []
    for global_seed in (1, 2):  # ranks, or a resumed run, whose global generators stand elsewhere
        torch.manual_seed(global_seed)
        backbone = SD3(sd3)
        backbone.load()
        LoRA(rank=2, seed=5).attach(backbone.transformer, ("to_q",))
        starts.append(trained(backbone.transformer))
        after = torch.rand(1)
        torch.manual_seed(global_seed)
        assert torch.equal(after, torch.rand(1))  # and they are left where they stood
    for name, parameter in starts[0].items():
        assert torch.equal(parameter, starts[1][name])
        assert bool(parameter.any()) == ("lora_A" in name)  # B is zero


def test_seed_and_init_choose_the_start(sd3: str) -> None:
    starts = []
    for lora in (LoRA(2), LoRA(2, seed=1), LoRA(2, init="kaiming")):
        backbone = SD3(sd3)
        backbone.load()
        lora.attach(backbone.transformer, ("to_q",))
        starts.append(next(iter(trained(backbone.transformer).values())))
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_adapters_are_float32_on_a_bfloat16_base(sd3: str) -> None:
    backbone = SD3(sd3, dtype="bfloat16")
    backbone.load()
    LoRA(rank=2).attach(backbone.transformer, ("to_q",))
    assert {p.dtype for p in trained(backbone.transformer).values()} == {torch.float32}
    assert next(backbone.transformer.parameters()).dtype == torch.bfloat16


def test_own_targets_win(transformer) -> None:
    LoRA(rank=2, alpha=6.0, targets=["ff.net.2"]).attach(transformer, ("to_q",))
    assert all(".ff.net.2." in name for name in trained(transformer))
    config = adapter_config(transformer)
    assert (config["r"], config["lora_alpha"]) == (2, 6.0)


def test_a_target_that_matches_nothing_is_refused(transformer) -> None:
    with pytest.raises(
        ValueError, match=r"no linear layer of SD3Transformer2DModel is called 'to_qq'; near it are to_q"
    ):
        LoRA(targets=["to_q", "to_qq"]).attach(transformer, ())
    assert "lora" not in str(transformer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"alpha": 0.0}, "alpha must be above 0, got 0.0"),
        ({"targets": []}, "targets must name at least one layer"),
    ],
)
def test_impossible_settings_are_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRA(**settings)
