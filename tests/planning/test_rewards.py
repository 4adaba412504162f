"""What parts of a reward cost, by their settings alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from realgen.detectors import ForensicChat
from realgen.planning.meter import flop_counter, total
from realgen.planning.rewards import reward_costs
from realgen.planning.vlm_cost import LETTERS_PER_TOKEN, TEMPLATE_TOKENS


def realism(kind: str, **settings: Any) -> dict[str, Any]:
    detector = {"class_path": f"realgen.detectors.{kind}", "init_args": settings}
    return {"class_path": "realgen.rewards.Realism", "init_args": {"detector": detector}}


def test_omniaid_has_the_flops_of_a_vision_tower() -> None:
    spec = realism("OmniAID", checkpoint="nowhere/omniaid.pth", config={"preprocess": "v1"})
    (cost,) = reward_costs(spec, height=64, width=64)
    tokens, width, layers = 577, 1024, 24
    layer = 24 * width**2 * tokens + 4 * tokens**2 * width
    last = layer - 10 / 12 * 24 * width**2 * tokens - 4 * tokens**2 * width  # of one token, but for keys and values
    assert total(cost.image or {}) == pytest.approx((layers - 1) * layer + last, rel=0.01)
    assert cost.memory == pytest.approx(4 * 304e6, rel=0.02)  # ViT-L/14 in float32


def test_what_is_not_counted_says_why() -> None:
    parts = {
        "dropped": None,
        "words": realism("LinearProbe", backbone="vit", checkpoint="nowhere"),
        "size": {"class_path": "realgen.rewards.JpegSize", "init_args": {}},
        "lost": realism("Effort", checkpoint="nowhere/effort.pth"),
        "far": {"class_path": "realgen.rewards.RemoteReward", "init_args": {"urls": ["http://127.0.0.1:1"]}},
    }
    costs = reward_costs(
        {"class_path": "realgen.rewards.WeightedSum", "init_args": {"rewards": parts}}, height=64, width=64
    )
    assert [cost.name for cost in costs] == ["words", "size", "lost", "far"]
    assert all(cost.image is None for cost in costs)
    words = ("does not know what LinearProbe", "does not know what JpegSize", "config.json", "another machine")
    for cost, word in zip(costs, words, strict=True):
        assert word in cost.note


def test_a_semantic_detector_has_the_flops_that_torch_counts(nano: Path) -> None:
    settings = {"pretrained": str(nano / "forensic_chat"), "dtype": "float32"}
    detector, image = ForensicChat(**settings), torch.rand(1, 3, 64, 64)
    tokens = detector.network.inputs(image)["input_ids"].shape[1]
    question = "x" * LETTERS_PER_TOKEN * (tokens - 4 * 4 - TEMPLATE_TOKENS)  # 64 pixels are 4 x 4 tokens
    (cost,) = reward_costs(realism("ForensicChat", **settings, question=question), height=64, width=64)
    with flop_counter() as counter:
        detector(image)
    assert total(cost.image or {}) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert cost.memory == pytest.approx(sum(4 * weight.numel() for weight in detector.network.parameters()), rel=1e-3)


def test_a_judge_that_is_not_here_is_counted_as_the_published_one() -> None:
    spec = {"class_path": "realgen.rewards.VlmRating", "init_args": {"pretrained": "who/what", "max_new_tokens": 8}}
    (cost,) = reward_costs(spec, height=1024, width=1024)
    weights = 8.29e9  # Qwen2.5-VL-7B
    assert cost.memory == pytest.approx(2 * weights, rel=0.01)
    assert cost.traffic == pytest.approx(8 * 2 * 7.62e9 / 4, rel=0.01)  # its language model, for 8 tokens of 4 images
    tokens, patches = 37 * 37 + 100, 74 * 74  # 1036 x 1036 pixels, and some text
    maps = 2 * (6.53e9 * (tokens + 8) + 0.63e9 * patches)
    attention = 4 * (28 * 3584 * tokens**2 + 1280 * patches * (4 * patches + 28 * 64))  # 4 layers see all, 28 windows
    assert total(cost.image or {}) == pytest.approx(maps + attention, rel=0.02)
    assert cost.note == (
        "reward vlmrating writes 8 tokens about each image, 'who/what' is not on this machine and was counted as a "
        "Qwen2.5-VL-7B"
    )


def test_another_kind_of_model_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (cost,) = reward_costs(realism("ForensicChat", pretrained=str(tmp_path)), height=64, width=64)
    assert cost.image is None
    assert "is no Qwen2.5-VL" in cost.note
