"""What parts of a reward cost, by their settings alone."""

from __future__ import annotations

from typing import Any

import pytest

from realgen.planning.meter import total
from realgen.planning.rewards import reward_costs


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
        "words": realism("ForensicChat", pretrained="nowhere"),
        "size": {"class_path": "realgen.rewards.JpegSize", "init_args": {}},
        "lost": realism("Effort", checkpoint="nowhere/effort.pth"),
        "far": {"class_path": "realgen.rewards.RemoteReward", "init_args": {"urls": ["http://127.0.0.1:1"]}},
    }
    costs = reward_costs(
        {"class_path": "realgen.rewards.WeightedSum", "init_args": {"rewards": parts}}, height=64, width=64
    )
    assert [cost.name for cost in costs] == ["words", "size", "lost", "far"]
    assert all(cost.image is None for cost in costs)
    words = ("writes text", "does not know what JpegSize", "config.json", "another machine")
    for cost, word in zip(costs, words, strict=True):
        assert word in cost.note
