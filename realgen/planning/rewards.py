"""What the parts of a reward cost for one image, counted on the meta device from their settings alone."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from realgen.detectors.base import DetectorNetwork
from realgen.detectors.checkpoint import CONFIG_NAME, read_config
from realgen.detectors.checkpoint_detector import CheckpointDetector
from realgen.detectors.forensic_chat import ForensicChat
from realgen.logging_filters import errors_only
from realgen.planning.meter import Work, metered, num_bytes
from realgen.planning.vlm_cost import vlm_cost
from realgen.rewards.alignment import Alignment
from realgen.rewards.base import Reward
from realgen.rewards.clip_similarity import ClipSimilarity
from realgen.rewards.long_clip import LongClip
from realgen.rewards.realism import Realism
from realgen.rewards.remote import RemoteReward
from realgen.rewards.vlm_rating import ANSWER, THINK, VlmRating
from realgen.rewards.weighted_sum import WeightedSum

RATING_TOKENS = 16
"""Of an answer without reasoning: a rating with two decimals between its tags, and the end, rounded up."""


@dataclass(frozen=True)
class RewardCost:
    """What one part of the reward costs."""

    name: str
    """Its name in the sum."""
    image: Work | None
    """FLOPs for one image; None where they were not counted."""
    prompt: Work
    """FLOPs for one prompt, whose features are kept."""
    memory: int | None
    """Bytes of weights; None where they were not counted."""
    note: str = ""
    """Why something was not counted, or what was taken for granted."""
    traffic: float = 0.0
    """Bytes of weights that are read over and over to write about one batch of images."""
    batch_size: int = 1
    """Images of such a batch."""


def reward_costs(reward: Mapping[str, Any], *, height: int, width: int, name: str = "") -> list[RewardCost]:
    """Count each part of a reward.

    Args:
        reward: ``class_path`` and ``init_args``.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        name: Of the part; by default its class.

    Returns:
        One for each part. What asks a server or is of an unknown class is not counted, and says so.
    """
    kind, settings = _class(reward), reward.get("init_args") or {}
    name = name or kind.__name__.lower()
    if issubclass(kind, WeightedSum):
        parts = [(part, spec) for part, spec in settings["rewards"].items() if spec is not None]
        return [cost for part, spec in parts for cost in reward_costs(spec, height=height, width=width, name=part)]
    try:
        if issubclass(kind, Realism):
            return [_detector_cost(name, settings["detector"], torch.empty(1, 3, height, width, device="meta"))]
        if issubclass(kind, ClipSimilarity):
            return [_clip_cost(name, kind, settings)]
        if issubclass(kind, VlmRating):
            return [_rating_cost(name, kind, settings, height, width)]
    except (OSError, RuntimeError, ValueError) as error:
        return [_not_counted(name, f"{kind.__name__}: {(str(error).splitlines() or [''])[0]}")]
    if issubclass(kind, RemoteReward):
        return [RewardCost(name, None, {}, 0, "another machine's work")]
    return [_unknown(name, kind)]


def _not_counted(name: str, why: str) -> RewardCost:
    return RewardCost(name, None, {}, None, why)


def _unknown(name: str, kind: type) -> RewardCost:
    return _not_counted(name, f"a plan does not know what {kind.__name__} computes")


def _class(spec: Mapping[str, Any]) -> type:
    module, _, name = spec["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def _detector_cost(name: str, spec: Mapping[str, Any], images: torch.Tensor) -> RewardCost:
    kind, settings = _class(spec), spec.get("init_args") or {}
    if issubclass(kind, ForensicChat):
        return _answer_cost(name, kind, settings, *images.shape[2:])
    if not issubclass(kind, CheckpointDetector):
        return _unknown(name, kind)
    make: Any = kind.network_type
    with torch.device("meta"):
        network: DetectorNetwork = make(read_config(_config(settings), kind.config_type)).eval()
    network.scoring_dtype = getattr(torch, settings.get("dtype") or "float32")
    network.merge()
    with torch.no_grad(), metered() as meter:
        network(images)
    return RewardCost(name, dict(meter.work), {}, num_bytes([*network.parameters(), *network.buffers()]))


def _answer_cost(name: str, kind: type, settings: Mapping[str, Any], height: int, width: int) -> RewardCost:
    """Of one forward pass, whose last logits are the answer."""
    given = _completed(kind, settings)
    wanted = ("pretrained", "question", "dtype", "min_pixels", "max_pixels")
    if not given.keys() >= {*wanted}:
        return _unknown(name, kind)
    cost = vlm_cost(height=height, width=width, **{argument: given[argument] for argument in wanted})
    note = f"reward {name}: {cost.note}" if cost.note else ""
    return RewardCost(name, cost.image, {}, cost.memory, note)


def _rating_cost(name: str, kind: type, settings: Mapping[str, Any], height: int, width: int) -> RewardCost:
    """Of reading and writing."""
    given = _completed(kind, settings)
    wanted = ("pretrained", "dtype", "max_pixels")
    if not given.keys() >= {*wanted, "question", "thinking", "max_new_tokens", "batch_size"}:
        return _unknown(name, kind)
    thinking, most = given["thinking"], given["max_new_tokens"]
    written = most if thinking else min(most, RATING_TOKENS)
    cost = vlm_cost(
        height=height,
        width=width,
        question=f"{given['question']} {THINK if thinking else ANSWER}",
        written_tokens=written,
        **{argument: given[argument] for argument in wanted},
    )
    writes = f"reward {name} writes {'up to ' if thinking else ''}{written} tokens about each image"
    note = f"{writes}; {cost.note}" if cost.note else writes
    return RewardCost(name, cost.image, {}, cost.memory, note, cost.traffic, given["batch_size"])


def _completed(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, with the constructor's defaults where a config leaves them out.

    Raises:
        ValueError: If the constructor refuses them.
    """
    kind(**settings)  # reads no weights
    arguments = inspect.signature(kind).parameters.values()
    return {argument.name: settings.get(argument.name, argument.default) for argument in arguments}


def _config(settings: Mapping[str, Any]) -> Mapping[str, Any] | Path:
    """The network's numbers, or the file with them, as the detectors look for them."""
    config = settings.get("config")
    if isinstance(config, Mapping):
        return config
    checkpoint = Path(settings["checkpoint"])
    beside = checkpoint if checkpoint.is_dir() else checkpoint.parent
    return Path(config) if config is not None else beside / CONFIG_NAME


def _clip_cost(name: str, kind: type[Reward], settings: Mapping[str, Any]) -> RewardCost:
    import open_clip

    if issubclass(kind, Alignment):
        local = settings.get("pretrained") is None
        model_name = f"local-dir:{settings['model']}" if local else settings["model"]
    elif issubclass(kind, LongClip):
        model_name = settings.get("architecture") or "ViT-L-14-quickgelu"
    else:
        return _not_counted(name, f"a plan does not know the network of {kind.__name__}")
    with errors_only():  # it warns that weights are random
        model: Any = open_clip.create_model(model_name, load_weights=False).eval().to("meta")
    length = 248 if issubclass(kind, LongClip) else model.context_length
    if length != model.context_length:
        table = model.positional_embedding
        model.positional_embedding = torch.nn.Parameter(table.new_empty(length, table.shape[1]))
        model.attn_mask = model.attn_mask.new_empty(length, length)
    size = model.visual.preprocess_cfg["size"]
    size = (size, size) if isinstance(size, int) else size
    with torch.no_grad(), metered() as images:
        model.encode_image(torch.empty(1, 3, *size, device="meta"))
    with torch.no_grad(), metered() as texts:
        model.encode_text(torch.zeros(1, length, dtype=torch.long, device="meta"))
    return RewardCost(name, dict(images.work), dict(texts.work), num_bytes([*model.parameters(), *model.buffers()]))
