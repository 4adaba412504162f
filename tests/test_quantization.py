"""Frozen weights in 8 bits: how far answers move, what they weigh, and who takes them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from realgen import quantization
from realgen.detectors import ForensicChat
from realgen.policies.backbones import SD3, Flux
from realgen.quantization import EightBits, quantize_weights, quantized_bytes
from tests.helpers import tiny_pipelines


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(64, 256), nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 64)).eval()


def stored(tensor: Any) -> int:
    names = [] if type(tensor.data) is Tensor else tensor.__tensor_flatten__()[0]
    return sum(each.numel() * each.element_size() for each in [getattr(tensor, name) for name in names] or [tensor])


@pytest.mark.parametrize(("kind", "moves"), [("int8", 0.01), ("float8", 0.06)])
def test_answers_move_a_little_and_weights_shrink_as_foretold(kind: EightBits, moves: float) -> None:
    whole, quantized = network().bfloat16(), network().bfloat16()
    foretold, words = quantized_bytes(quantized, kind), torch.arange(64)
    quantize_weights(quantized.requires_grad_(False), kind)
    difference = (quantized(words) - whole(words)).norm() / whole(words).norm()
    assert 0 < difference < moves
    # Scales are float32 in one format and bfloat16 in the other.
    assert sum(map(stored, quantized.parameters())) == pytest.approx(foretold, rel=0.02)
    assert foretold < 0.66 * quantized_bytes(whole, None)  # the embedding stays


def test_none_changes_nothing() -> None:
    weight = (plain := network())[1].weight
    quantize_weights(plain, None)
    assert plain[1].weight is weight


def linear_kinds(network: nn.Module) -> set[type]:
    return {type(module.weight.data) for module in network.modules() if type(module) is nn.Linear}


@pytest.mark.parametrize("kind", [SD3, Flux])
def test_only_the_text_encoders_of_a_backbone_shrink(kind: type[SD3 | Flux], tmp_path: Path) -> None:
    tiny_pipelines.write(tiny_pipelines.module_of(kind), tmp_path)
    texts = ["a cat", "two dogs on a table"]
    whole, quantized = kind(str(tmp_path)), kind(str(tmp_path), text_encoder_bits="int8")
    for backbone in (whole, quantized):
        backbone.load()
    for name, expected in whole.encode_prompts(texts).items():
        if expected.is_floating_point():
            torch.testing.assert_close(quantized.encode_prompts(texts)[name], expected, atol=0.1, rtol=0.1)
    kinds = {part is quantized.vae: linear_kinds(part) for part in quantized.frozen()}
    assert kinds[True] == {Tensor}  # of the VAE's attention
    assert Tensor not in kinds[False]
    assert all(type(weight.data) is Tensor for weight in quantized.transformer.parameters())


def test_a_vision_language_judge_takes_it(nano: Path) -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    folder = str(nano / "forensic_chat")
    kinds: tuple[EightBits | None, ...] = (None, "int8")
    whole, quantized = (ForensicChat(folder, dtype="float32", bits=bits)(images) for bits in kinds)
    assert 0 < (whole - quantized).abs().max() < 0.05


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(quantization, "find_spec", lambda name: None if name == "torchao" else find(name))
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'torchao'. .*pip install 'realgen\[quantized\]'"):
        SD3("nowhere", text_encoder_bits="int8")
