"""What parts of a reward cost, by their settings alone."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from realgen.detectors import ForensicChat
from realgen.planning.meter import flop_counter, total
from realgen.planning.rewards import reward_costs
from realgen.rewards import VlmRating


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
        "probe": realism("LinearProbe", backbone="vit", checkpoint="nowhere"),
        "size": {"class_path": "realgen.rewards.JpegSize", "init_args": {}},
        "lost": realism("Effort", checkpoint="nowhere/effort.pth"),
        "far": {"class_path": "realgen.rewards.RemoteReward", "init_args": {"urls": ["http://127.0.0.1:1"]}},
    }
    costs = reward_costs(
        {"class_path": "realgen.rewards.WeightedSum", "init_args": {"rewards": parts}}, height=64, width=64
    )
    assert [cost.name for cost in costs] == ["probe", "size", "lost", "far"]
    assert all(cost.image is None for cost in costs)
    words = ("does not know what LinearProbe", "does not know what JpegSize", "config.json", "another machine")
    for cost, word in zip(costs, words, strict=True):
        assert word in cost.note


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 96)])
def test_a_semantic_detector_has_the_flops_that_torch_counts(nano: Path, height: int, width: int) -> None:
    settings = {"pretrained": str(nano / "forensic_chat"), "dtype": "float32"}
    (cost,) = reward_costs(realism("ForensicChat", **settings), height=height, width=width)
    detector = ForensicChat(**settings)
    with flop_counter() as counter:
        detector(torch.rand(1, 3, height, width))
    assert total(cost.image or {}) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert cost.memory == pytest.approx(sum(4 * weight.numel() for weight in detector.network.parameters()), rel=1e-3)
    assert cost.note == ""


def rating(pretrained: object, **settings: Any) -> dict[str, Any]:
    return {"class_path": "realgen.rewards.VlmRating", "init_args": {"pretrained": str(pretrained), **settings}}


def test_a_judge_that_is_not_here_is_counted_as_the_published_one() -> None:
    (cost,) = reward_costs(rating("who/what", max_new_tokens=8), height=1024, width=1024)
    weights, embedding = 8.29e9, 0.545e9  # Qwen2.5-VL-7B
    language, head = 7.62e9 - 2 * embedding, embedding
    assert cost.memory == pytest.approx(2 * weights, rel=0.01)
    assert cost.traffic == pytest.approx(7 * 2 * (language + head), rel=0.01)  # 7 more tokens of a batch
    assert cost.batch_size == 4
    tokens, patches = 37 * 37 + 120, 74 * 74  # 1036 x 1036 pixels, and some text
    maps = 2 * (language * (tokens + 7) + head * 8 + 0.63e9 * patches)
    attention = 4 * (28 * 3584 * tokens**2 + 1280 * patches * (4 * patches + 28 * 64))  # 4 layers see all, 28 windows
    assert total(cost.image or {}) == pytest.approx(maps + attention, rel=0.02)
    assert cost.note == (
        "reward vlmrating writes 8 tokens about each image; 'who/what' is not on this machine and was counted as a "
        "Qwen2.5-VL-7B"
    )


def test_reasoning_is_counted_up_to_its_limit_and_smaller_images_are_fewer_tokens(nano: Path) -> None:
    (short,) = reward_costs(rating(nano / "forensic_chat"), height=64, width=64)
    (long,) = reward_costs(rating(nano / "forensic_chat", thinking=True), height=64, width=64)
    assert "writes 16 tokens" in short.note
    assert "writes up to 512 tokens" in long.note
    assert long.traffic == pytest.approx(511 / 15 * short.traffic)
    published = {"height": 512, "width": 512}
    (whole,), (scaled,) = (reward_costs(rating("who/what", max_pixels=area), **published) for area in (None, 256**2))
    assert total(scaled.image or {}) < total(whole.image or {}) / 2


def test_a_written_rating_has_the_flops_that_torch_counts(nano: Path) -> None:
    (cost,) = reward_costs(
        rating(nano / "forensic_chat", dtype="float32", thinking=True, max_new_tokens=48), height=64, width=64
    )
    reward = VlmRating(str(nano / "forensic_chat"), dtype="float32", thinking=True, max_new_tokens=48)
    reward.handle.model.generation_config.min_new_tokens = 48
    with flop_counter() as counter:
        reward.answers(torch.rand(1, 3, 64, 64))
    assert total(cost.image or {}) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(
    "settings", [{"min_pixels": 400, "max_pixels": 10}, {"question": " "}, {"pretrained": "data/nano/lost"}]
)
def test_what_the_constructor_refuses_is_not_counted(settings: dict[str, Any], nano: Path, repository: Path) -> None:
    (cost,) = reward_costs(
        realism("ForensicChat", **{"pretrained": str(nano / "forensic_chat"), **settings}), height=64, width=64
    )
    assert cost.image is None
    assert next(iter(settings)) in cost.note


def test_tokens_are_guessed_without_a_processor(nano: Path, tmp_path: Path) -> None:
    shutil.copy(nano / "forensic_chat" / "config.json", tmp_path)
    (cost,) = reward_costs(realism("ForensicChat", pretrained=str(tmp_path)), height=64, width=64)
    assert "has no processor on this machine, and its tokens were guessed" in cost.note
    assert total(cost.image or {}) > 0


class Own(VlmRating):
    """With a constructor of its own."""

    def __init__(self, pretrained: str) -> None:
        super().__init__(pretrained)


def test_a_class_with_another_constructor_is_not_counted() -> None:
    spec = {"class_path": f"{__name__}.Own", "init_args": {"pretrained": "who/what"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, __name__, sys.modules.get(__name__) or SimpleNamespace(Own=Own))
        (cost,) = reward_costs(spec, height=64, width=64)
    assert cost.image is None
    assert "does not know what Own computes" in cost.note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "llama"}', "no Qwen2.5-VL, its config.json has model_type 'llama'"),
        ("{}", "no Qwen2.5-VL, its config.json has model_type None"),
        ("[]", "attribute"),
        ('{"model_type": "qwen2_5_vl", "text_config": {"hidden_size": "a"}}', "hidden_size"),
        ('{"model_type": "qwen2_5_vl", "text_config": {"num_attention_heads": 0}}', "zero"),
        ('{"model_type": "qwen2_5_vl", "vision_config": {"patch_size": 0}}', "zero"),
        ("nonsense", "not a valid JSON"),
    ],
)
def test_what_is_no_judge_is_not_counted(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    (cost,) = reward_costs(realism("ForensicChat", pretrained=str(tmp_path)), height=64, width=64)
    assert cost.image is None
    assert str(tmp_path) in cost.note
    assert re.search(message, cost.note)


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_broken_processor_is_not_taken_for_a_missing_one(name: str, nano: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(nano / "forensic_chat", tmp_path / "judge"))
    (folder / name).write_text("{% nonsense")
    (cost,) = reward_costs(realism("ForensicChat", pretrained=str(folder)), height=64, width=64)
    assert cost.image is None
    assert "guessed" not in cost.note
