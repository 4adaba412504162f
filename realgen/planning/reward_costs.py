"""What each component of a reward costs for one image: a table of published sizes, and how settings change them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from realgen.planning.meter import Work

RATING_TOKENS = 16
"""Tokens of an answer without reasoning: a rating with two decimals between its tags, and the end, rounded up."""


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
    token: float = 0.0
    """Weights that are read for each written token after the first."""


_CLIP_L, _CLIP_H, _QWEN = "CLIP ViT-L/14 at 224 pixels", "CLIP ViT-H/14 at 224 pixels", "Qwen2.5-VL-7B"
# Counted once by torch.utils.flop_counter on each network's own class with its published config, the always-on expert
# merged; those of data/nano on their files. Qwen2.5-VL-7B: by its config.json, and a straight line through the FLOPs of
# 256 x 256 and 1024 x 1024 pixels; the text beside the image is in `image`.
NETWORKS: Mapping[str, NetworkCost] = {
    "OmniAID": NetworkCost("OmniAID on CLIP ViT-L/14 at 336 pixels", 305e6, 369e9),
    "OmniAID, router_input frozen_tower": NetworkCost("OmniAID on two CLIP ViT-L/14 at 336 pixels", 608e6, 751e9),
    "OmniAIDDino": NetworkCost("OmniAID on DINOv3 ViT-L/16", 608e6, 1.06e12),
    "Effort": NetworkCost(f"Effort on {_CLIP_L}", 303e6, 162e9),
    "ForensicChat": NetworkCost(_QWEN, 8.29e9, 0.5e12, pixel=2.54e7),
    "VlmRating": NetworkCost(_QWEN, 8.29e9, 1.4e12, pixel=2.54e7, token=7.07e9),
    "LongClip": NetworkCost(f"Long-CLIP on {_CLIP_L}", 428e6, 162e9, prompt=44.4e9),
    "Aesthetic": NetworkCost(_CLIP_L, 304e6, 162e9),
    "HPSv2": NetworkCost(_CLIP_H, 986e6, 335e9, prompt=47.1e9),
    "PickScore": NetworkCost(_CLIP_H, 986e6, 335e9, prompt=47.1e9),
    "ViT-B-32": NetworkCost("CLIP ViT-B/32 at 224 pixels", 151e6, 8.82e9, prompt=5.96e9),
    "ViT-B-16": NetworkCost("CLIP ViT-B/16 at 224 pixels", 150e6, 35.1e9, prompt=5.96e9),
    "ViT-L-14": NetworkCost(_CLIP_L, 428e6, 162e9, prompt=13.3e9),
    "ViT-H-14": NetworkCost(_CLIP_H, 986e6, 335e9, prompt=47.1e9),
    "data/nano/omniaid": NetworkCost("the embedded OmniAID", 299e3, 29.8e6),
    "data/nano/effort": NetworkCost("the embedded Effort", 323e3, 11.0e6),
    "data/nano/forensic_chat": NetworkCost("the embedded Forensic-Chat", 721e3, 75.6e6, token=218e3),
    "data/nano/clip": NetworkCost("the embedded CLIP", 531e3, 50.4e6, prompt=5.02e6),
}
"""By the name of the reward's or detector's class, of open_clip's architecture, or of the folder of the weights."""


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
    traffic: float = 0.0
    """Bytes of weights that are read over and over to write about one batch of images."""
    batch_size: int = 1
    """Images of such a batch."""


def reward_costs(reward: Mapping[str, Any], *, height: int, width: int, name: str = "") -> list[RewardCost]:
    """Look up each component of a reward.

    Args:
        reward: ``class_path`` and ``init_args``; those of ``VlmRating`` complete.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        name: Of the component; by default its class.

    Returns:
        One for each component. What is not in the table, or runs on another machine, is not counted and says so.
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
    return [_cost(name, network, scorer.get("init_args") or {}, height * width)]


def _find_network(scorer: Mapping[str, Any]) -> NetworkCost | None:
    settings = scorer.get("init_args") or {}
    kind = scorer["class_path"].rpartition(".")[2] if scorer["class_path"].startswith("realgen.") else ""
    config = settings.get("config")
    if isinstance(config, Mapping) and config.get("router_input") == "frozen_tower":
        kind += ", router_input frozen_tower"
    keys = (str(settings.get(name)) for name in ("checkpoint", "pretrained", "model"))
    return next((NETWORKS[key] for key in (*keys, kind) if key in NETWORKS), None)


def _cost(name: str, network: NetworkCost, settings: Mapping[str, Any], pixels: int) -> RewardCost:
    dtype = settings.get("dtype", "float32")
    rate, width = "fp32" if dtype == "float32" else "bf16", getattr(torch, dtype).itemsize
    written, note = 1, f"reward {name} is counted as {network.name}"
    if "max_new_tokens" in settings:
        most = settings["max_new_tokens"]
        written = most if settings["thinking"] else min(most, RATING_TOKENS)
        note += f" that writes {'up to ' if settings['thinking'] else ''}{written} tokens about each image"
    read = min(pixels, settings.get("max_pixels") or pixels)
    # A multiplication and an addition for each weight and token; attention to what was written is left out.
    image = network.image + network.pixel * read + 2 * network.token * (written - 1)
    return RewardCost(
        name,
        image={rate: image},
        prompt={rate: network.prompt} if network.prompt else {},
        memory=int(network.weights * width),
        note=note,
        traffic=network.token * width * (written - 1),
        batch_size=settings.get("batch_size", 1),
    )
