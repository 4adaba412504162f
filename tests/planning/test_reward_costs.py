"""The table of rewards against hand arithmetic, and against PyTorch's counter on the networks themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from realgen.detectors import Effort, ForensicChat, OmniAID
from realgen.detectors.base import DetectorNetwork
from realgen.detectors.configs import EffortConfig, OmniAIDConfig, OmniAIDDinoConfig
from realgen.detectors.effort import EffortNetwork
from realgen.detectors.omniaid import OmniAIDNetwork
from realgen.detectors.omniaid_dino import OmniAIDDinoNetwork
from realgen.metrics import ImageNetEncoder, TimmEncoder
from realgen.planning.meter import flop_counter, metered, num_bytes, total
from realgen.planning.reward_costs import ENCODERS, NETWORKS, RewardCost, metric_bytes, reward_costs
from realgen.rewards import Alignment

META = torch.device("meta")


def cost_of(spec: dict[str, Any], size: int = 512) -> RewardCost:
    (cost,) = reward_costs(spec, height=size, width=size)
    return cost


def realism(kind: str, **settings: Any) -> dict[str, Any]:
    detector = {"class_path": f"realgen.detectors.{kind}", "init_args": settings}
    return {"class_path": "realgen.rewards.Realism", "init_args": {"detector": detector}}


def rating(**settings: Any) -> dict[str, Any]:
    given = {"pretrained": "who/what", "thinking": False, "max_new_tokens": 512, "dtype": "bfloat16", "batch_size": 4}
    return {"class_path": "realgen.rewards.VlmRating", "init_args": {**given, **settings}}


def test_omniaid_has_the_flops_of_a_vision_tower() -> None:
    cost = cost_of(realism("OmniAID", checkpoint="nowhere/omniaid.pth", config={"preprocess": "v1"}))
    tokens, width, layers = 577, 1024, 24
    layer = 24 * width**2 * tokens + 4 * tokens**2 * width
    last = layer - 10 / 12 * 24 * width**2 * tokens - 4 * tokens**2 * width  # of one token, but for keys and values
    assert total(cost.image or {}) == pytest.approx((layers - 1) * layer + last, rel=0.01)
    assert cost.memory == pytest.approx(4 * 304e6, rel=0.02)  # ViT-L/14 in float32


@pytest.mark.parametrize(
    ("name", "network", "config"),
    [
        ("OmniAID", OmniAIDNetwork, OmniAIDConfig()),
        ("OmniAID, router_input frozen_tower", OmniAIDNetwork, OmniAIDConfig(router_input="frozen_tower", rank=1)),
        ("OmniAIDDino", OmniAIDDinoNetwork, OmniAIDDinoConfig()),
        ("Effort", EffortNetwork, EffortConfig()),
    ],
)
def test_published_detectors_have_the_sizes_of_the_table(name: str, network: Any, config: Any) -> None:
    with META:
        built: DetectorNetwork = network(config).eval()
    built.scoring_dtype = torch.float32
    built.merge()
    image = torch.empty(1, 3, 512, 512, device=META)
    with torch.no_grad(), metered() as meter:
        built(image)
    assert NETWORKS[name].image == pytest.approx(total(meter.work), rel=0.01)
    assert 4 * NETWORKS[name].weights == pytest.approx(num_bytes([*built.parameters(), *built.buffers()]), rel=0.01)
    assert 4 * NETWORKS[name].alive == pytest.approx(meter.peak, rel=0.01)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14"])
def test_clips_have_the_sizes_of_the_table(name: str) -> None:
    import open_clip

    with META:
        model: Any = open_clip.CLIP(**open_clip.get_model_config(name)).eval()
    size = model.visual.image_size[0]
    with torch.no_grad(), metered() as images:
        model.encode_image(torch.empty(1, 3, size, size, device=META))
    with torch.no_grad(), metered() as texts:
        model.encode_text(torch.zeros(1, model.context_length, dtype=torch.long, device=META))
    assert NETWORKS[name].image == pytest.approx(total(images.work), rel=0.01)
    assert NETWORKS[name].prompt == pytest.approx(total(texts.work), rel=0.01)
    assert 4 * NETWORKS[name].alive == pytest.approx(images.peak, rel=0.01)
    assert NETWORKS[name].weights == pytest.approx(sum(weight.numel() for weight in model.parameters()), rel=0.01)


def test_embedded_networks_have_the_flops_that_torch_counts(nano: Path) -> None:
    chat = str(nano / "forensic_chat")
    detectors = {
        "omniaid": OmniAID(str(nano / "omniaid")),
        "effort": Effort(str(nano / "effort")),
        "forensic_chat": ForensicChat(chat, dtype="float32"),
    }
    image = torch.rand(1, 3, 64, 64)
    for name, detector in detectors.items():
        detector(image)  # reads the weights, and merges the always-on expert
        with flop_counter() as counter:
            detector(image)
        assert NETWORKS[f"data/nano/{name}"].image == pytest.approx(counter.get_total_flops(), rel=0.02), name
    encoders = Alignment(str(nano / "clip")).network
    with torch.no_grad(), flop_counter() as counter:
        encoders.model.encode_image(torch.rand(1, 3, *encoders.wanted.size))
        encoders.model.encode_text(encoders.tokenize(["a cat"]))
    clip = NETWORKS["data/nano/clip"]
    assert clip.image + clip.prompt == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("size", [512, 1024])
def test_a_rating_has_the_flops_of_a_qwen(size: int) -> None:
    cost = cost_of(rating(), size)
    weights, embedding = 8.29e9, 0.545e9  # Qwen2.5-VL-7B
    language, head = 7.62e9 - 2 * embedding, embedding
    assert cost.memory == pytest.approx(2 * weights, rel=0.01)
    side = round(size / 28)
    tokens, patches = side**2 + 120, (2 * side) ** 2  # of 28 x 28 and 14 x 14 pixels, and some text
    maps = 2 * (language * (tokens + 15) + head * 16 + 0.63e9 * patches)  # 16 tokens are written
    attention = 4 * (28 * 3584 * tokens**2 + 1280 * patches * (4 * patches + 28 * 64))  # 4 layers see all, 28 windows
    assert total(cost.image or {}) == pytest.approx(maps + attention, rel=0.1)
    assert cost.note == "reward vlmrating is counted as Qwen2.5-VL-7B that writes a rating without reasoning"


def test_a_judge_holds_its_tokens_beside_its_weights() -> None:
    cost = cost_of(rating(), 1024)
    tokens = (1024 / 28) ** 2
    assert cost.alive == pytest.approx(2 * tokens * (3 * 18_944 + 2 * 3_584), rel=0.02)  # bytes, in bfloat16
    assert cost.batch_size == 4


def test_a_default_that_is_written_out_changes_nothing() -> None:
    plain, written = (realism("OmniAIDDino", **more) for more in ({}, {"config": {"router_input": "frozen_tower"}}))
    assert cost_of(plain) == cost_of(written)


def test_the_embedded_networks_are_known_from_any_folder(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(nano)
    embedded = cost_of(realism("OmniAID", checkpoint="data/nano/omniaid"))
    for place in (str(nano / "omniaid"), "./omniaid", "../nano/omniaid/"):
        assert cost_of(realism("OmniAID", checkpoint=place)) == embedded
    encoder = {"class_path": "realgen.metrics.TimmEncoder", "init_args": {"checkpoint": str(nano / "encoder")}}
    assert metric_bytes({"kid": {"class_path": "realgen.metrics.KID", "init_args": {"encoder": encoder}}}) == 1_500_000


def test_metrics_hold_their_networks(nano: Path) -> None:
    effort = {"detector": realism("Effort", checkpoint="nowhere", dtype="bfloat16")["init_args"]["detector"]}
    encoder = {"class_path": "realgen.metrics.TimmEncoder", "init_args": {"checkpoint": "data/nano/encoder"}}
    imagenet = {"class_path": "realgen.metrics.ImageNetEncoder", "init_args": {"batch_size": 40}}
    metrics: dict[str, Any] = {
        "held_out": {"class_path": "realgen.metrics.DetectorScore", "init_args": effort},
        "kid": {"class_path": "realgen.metrics.KID", "init_args": {"encoder": encoder}},
        "imagenet": {"class_path": "realgen.metrics.KID", "init_args": {"encoder": imagenet}},
        "color": {"class_path": "realgen.metrics.ColorDistance"},
        "dropped": None,
    }
    effort_bytes = cost_of(realism("Effort", checkpoint="nowhere", dtype="bfloat16")).memory or 0
    encoders = [TimmEncoder(str(nano / "encoder")), ImageNetEncoder()]
    bytes_of = [num_bytes([*each.network.parameters(), *each.network.buffers()]) for each in encoders]
    assert metric_bytes(metrics) == pytest.approx(effort_bytes + sum(bytes_of), rel=1e-3)
    assert [4 * size for size in ENCODERS.values()] == pytest.approx(bytes_of[::-1], rel=0.01)
    own = {"class_path": "realgen.metrics.KID", "init_args": {"encoder": {"class_path": "mine.Encoder"}}}
    assert metric_bytes({"own": own}) is None
    assert metric_bytes({}) == 0


def test_images_are_read_up_to_their_largest_size() -> None:
    small, large = (total(cost_of(rating(**each)).image or {}) for each in ({"max_pixels": 256**2}, {}))
    assert small < large / 2


def test_the_type_decides_bytes_and_rate() -> None:
    exact, fast = (cost_of(realism("Effort", checkpoint="nowhere", dtype=name)) for name in ("float32", "bfloat16"))
    assert exact.memory == 2 * (fast.memory or 0)
    assert exact.image == {"fp32": total(fast.image or {})}
    assert fast.image == {"bf16": total(exact.image or {})}


def test_what_is_not_in_the_table_is_named_as_not_counted() -> None:
    components = {
        "dropped": None,
        "probe": realism("LinearProbe", backbone="vit", probe="nowhere"),
        "size": {"class_path": "realgen.rewards.JpegSize", "init_args": {}},
        "own": {"class_path": "mine.OmniAID", "init_args": {}},
        "far": {"class_path": "realgen.rewards.RemoteReward", "init_args": {"urls": ["http://127.0.0.1:1"]}},
    }
    spec = {"class_path": "realgen.rewards.WeightedSum", "init_args": {"rewards": components}}
    costs = reward_costs(spec, height=64, width=64)
    assert [cost.name for cost in costs] == ["probe", "size", "own", "far"]
    assert all(cost.image is None for cost in costs)
    assert [cost.memory for cost in costs] == [None, None, None, 0]  # the last runs on another machine
    words = ("realgen.detectors.LinearProbe", "realgen.rewards.JpegSize", "mine.OmniAID", "another machine")
    for cost, word in zip(costs, words, strict=True):
        assert word in cost.note
