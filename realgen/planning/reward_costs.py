"""What each component of a reward costs for one image: a table of published sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from realgen.planning.meter import Work


class NetworkCost(NamedTuple):
    """Size of one network that scores images."""

    name: str
    """What it is, for the reader of a plan."""
    weights: float
    """Numbers that it holds in memory."""
    image: float
    """FLOPs of one image."""
    prompt: float = 0.0
    """FLOPs of one prompt, whose features are kept."""
    pixel: float = 0.0
    """FLOPs of each pixel, for a network that reads images at their own size."""
    alive: float = 0.0
    """Most numbers that it holds at once for one image, besides weights and image; 0 for the embedded ones, which are
    small."""
    alive_pixel: float = 0.0
    """The same for each pixel."""


_CLIP_L, _CLIP_H, _QWEN = "CLIP ViT-L/14 at 224 pixels", "CLIP ViT-H/14 at 224 pixels", "Qwen2.5-VL-7B"
# Counted once by torch.utils.flop_counter on each network's own class with its published config, the always-on expert
# merged; those of data/nano on their files. Qwen2.5-VL-7B: by its config.json, and a straight line through the FLOPs of
# 256 x 256 and 1024 x 1024 pixels; the text beside the image, and a short answer to it, are in `image`. Its numbers at
# once are those of a language layer's feed-forward part: 3 x 18,944 and 2 x 3,584 for each token, of 28 x 28 pixels.
NETWORKS: Mapping[str, NetworkCost] = {
    "OmniAID": NetworkCost("OmniAID on CLIP ViT-L/14 at 336 pixels", 305e6, 369e9, alive=5.66e6),
    "OmniAID, router_input frozen_tower": NetworkCost(
        "OmniAID on two CLIP ViT-L/14 at 336 pixels", 608e6, 751e9, alive=6.25e6
    ),
    "OmniAIDDino": NetworkCost("OmniAID on DINOv3 ViT-L/16", 608e6, 1.06e12, alive=11.2e6),
    "Effort": NetworkCost(f"Effort on {_CLIP_L}", 303e6, 162e9, alive=2.52e6),
    "ForensicChat": NetworkCost(_QWEN, 8.29e9, 0.5e12, pixel=2.54e7, alive_pixel=82),
    "VlmRating": NetworkCost(
        f"{_QWEN} that writes a rating without reasoning", 8.29e9, 1.6e12, pixel=2.54e7, alive_pixel=82
    ),
    "LongClip": NetworkCost(f"Long-CLIP on {_CLIP_L}", 428e6, 162e9, prompt=44.4e9, alive=3.31e6),
    "Aesthetic": NetworkCost(_CLIP_L, 304e6, 162e9, alive=3.31e6),
    "HPSv2": NetworkCost(_CLIP_H, 986e6, 335e9, prompt=47.1e9, alive=4.1e6),
    "PickScore": NetworkCost(_CLIP_H, 986e6, 335e9, prompt=47.1e9, alive=4.1e6),
    "ViT-B-32": NetworkCost("CLIP ViT-B/32 at 224 pixels", 151e6, 8.82e9, prompt=5.96e9, alive=0.61e6),
    "ViT-B-16": NetworkCost("CLIP ViT-B/16 at 224 pixels", 150e6, 35.1e9, prompt=5.96e9, alive=1.97e6),
    "ViT-L-14": NetworkCost(_CLIP_L, 428e6, 162e9, prompt=13.3e9, alive=3.31e6),
    "ViT-H-14": NetworkCost(_CLIP_H, 986e6, 335e9, prompt=47.1e9, alive=4.1e6),
    "data/nano/omniaid": NetworkCost("the embedded OmniAID", 299e3, 29.8e6),
    "data/nano/effort": NetworkCost("the embedded Effort", 323e3, 11.0e6),
    "data/nano/forensic_chat": NetworkCost("the embedded Forensic-Chat", 721e3, 75.6e6),
    "data/nano/clip": NetworkCost("the embedded CLIP", 531e3, 50.4e6, prompt=5.02e6),
}
"""By the name of the reward's or detector's class, of open_clip's architecture, or of the folder of the weights."""

ENCODERS: Mapping[str, float] = {"ImageNetEncoder": 4.63e6, "data/nano/encoder": 375e3}
"""Numbers that a metric's encoder holds, by the name of its class or the folder of its weights."""


@dataclass(frozen=True)
class RewardCost:
    """What one component of the reward costs."""

    name: str
    """Its name in the sum."""
    image: Work | None
    """FLOPs for one image; None where they are not counted."""
    prompt: Work
    """FLOPs for one prompt."""
    memory: int | None
    """Bytes of weights; None where they are not counted."""
    note: str
    """What was taken for granted, or why it is not counted."""
    alive: int = 0
    """Bytes besides the weights for one image, at the fullest moment."""
    batch_size: int = 64
    """Most images of one call."""


def reward_costs(reward: Mapping[str, Any], *, height: int, width: int, name: str = "") -> list[RewardCost]:
    """Look up the cost of each component of a reward, given as ``class_path`` and ``init_args``, for images in pixels.

    What is not in the table, or runs on another machine, is not counted and says so.
    """
    kind, settings = reward["class_path"].rpartition(".")[2], reward.get("init_args") or {}
    name = name or kind.lower()
    if kind == "WeightedSum":
        components = [(part, spec) for part, spec in settings["rewards"].items() if spec is not None]
        return [cost for part, spec in components for cost in reward_costs(spec, height=height, width=width, name=part)]
    if kind == "RemoteReward":
        return [RewardCost(name, None, {}, 0, "another machine's work")]
    scorer = settings["detector"] if kind == "Realism" else reward
    network = _find_network(scorer)
    if network is None:
        return [RewardCost(name, None, {}, None, f"a plan does not know what {scorer['class_path']} computes")]
    settings = scorer.get("init_args") or {}
    dtype: torch.dtype = getattr(torch, settings.get("dtype", "float32"))
    rate = "fp32" if dtype == torch.float32 else "bf16"
    pixels = min(height * width, settings.get("max_pixels") or height * width)
    return [
        RewardCost(
            name,
            image={rate: network.image + network.pixel * pixels},
            prompt={rate: network.prompt} if network.prompt else {},
            memory=_weight_bytes(network, settings),
            note=f"reward {name} is counted as {network.name}",
            alive=int((network.alive + network.alive_pixel * pixels) * dtype.itemsize),
            batch_size=settings.get("batch_size", 64),
        )
    ]


def metric_bytes(metrics: Mapping[str, Any]) -> int | None:
    """Add up the weights of metrics' networks, each metric given as ``class_path`` and ``init_args``, or ``null``.

    Returns:
        Bytes, without networks that are not in the tables; None if none of those that there are is in them.
    """
    found: list[int | None] = []
    for spec in filter(None, metrics.values()):
        settings = spec.get("init_args") or {}
        if detector := settings.get("detector"):
            network = _find_network(detector)
            found.append(network and _weight_bytes(network, detector.get("init_args") or {}))
        elif encoder := settings.get("encoder"):
            folder = (encoder.get("init_args") or {}).get("checkpoint")
            keys = (*_table_names(folder), encoder["class_path"].rpartition(".")[2])
            found.append(next((int(ENCODERS[key] * 4) for key in keys if key in ENCODERS), None))
    known = [size for size in found if size is not None]
    return None if found and not known else sum(known)


def _weight_bytes(network: NetworkCost, settings: Mapping[str, Any]) -> int:
    dtype: torch.dtype = getattr(torch, settings.get("dtype", "float32"))
    return int(network.weights * (1 if settings.get("bits") else dtype.itemsize))


def _find_network(scorer: Mapping[str, Any]) -> NetworkCost | None:
    settings = scorer.get("init_args") or {}
    kind = scorer["class_path"].rpartition(".")[2] if scorer["class_path"].startswith("realgen.") else ""
    kinds, config = [kind], settings.get("config")
    if isinstance(config, Mapping) and config.get("router_input") == "frozen_tower":
        kinds.insert(0, f"{kind}, router_input frozen_tower")
    keys = (key for name in ("checkpoint", "pretrained", "model") for key in _table_names(settings.get(name)))
    return next((NETWORKS[key] for key in (*keys, *kinds) if key in NETWORKS), None)


def _table_names(name: object) -> tuple[str, str]:
    """Return a setting's text, and the last three folders of the place it names, whatever the current folder is."""
    return str(name), "/".join(Path(str(name)).resolve().parts[-3:])
