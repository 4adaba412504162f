"""What detectors that learn beside the policy hold in memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from realgen.detectors.checkpoint import CONFIG_NAME, CheckpointDetector
from realgen.given_files import read_json
from realgen.planning.meter import metered, num_bytes


class LearningCost(NamedTuple):
    """Bytes of one detector that learns, beside the frozen one that judges."""

    component: str
    held: int
    """On the GPU, always: weights, of the trained ones averages in float32 and AdamW's two moments, and what the
    orthogonality loss keeps experts apart from."""
    alive: int
    """On the GPU besides, at the fullest moment of an update, which keeps the state before it: a forward and backward
    pass, gradients and their averages over ranks, or the network that is to judge beside the one that did."""
    buffer: int
    """On the CPU: replayed pairs; held-out photographs, newest and first samples; 8 bits each number."""


def learning_cost(settings: Mapping[str, Any], reward: Mapping[str, Any], *, side: int) -> LearningCost | None:
    """Count a ``DetectorLearning`` of these arguments on the meta device; None if its detector is not known.

    ``reward`` are the settings of the whole reward, ``side`` that of the policy's images in pixels.
    """
    name, pairs = settings["component"], settings.get("pairs") or {}
    parts = (reward.get("init_args") or {}).get("rewards") or {name: reward}
    spec: Any = ((parts.get(name) or {}).get("init_args") or {}).get("detector") or {}
    kinds = {kind.__name__: kind for kind in CheckpointDetector.__subclasses__()}
    kind: Any = kinds.get(spec.get("class_path", "").rpartition(".")[2])
    if kind is None:
        return None
    side, scored = pairs.get("image_size") or side, spec.get("init_args") or {}
    config, beside = scored.get("config"), Path(str(scored.get("checkpoint")), CONFIG_NAME)
    if not isinstance(config, Mapping):  # a file, or that of the folder, or the published one
        path = Path(config or beside)
        config = read_json(path) if path.is_file() else {}
    with torch.device("meta"):
        network = kind.network_type(kind.config_type(**config.get("init_args", config)))
        images = torch.empty(settings.get("microbatch_size", 16), 3, side, side)
    if settings.get("trainable"):
        network.set_trainable(settings["trainable"])
    with metered() as meter:
        network.train()(images).sum().backward()
    weights, learnt = num_bytes(network.parameters()), list(network.trainable_parameters().values())
    trained, exact = num_bytes(learnt), sum(weight.numel() * max(4, weight.element_size()) for weight in learnt)
    bases = network.main_bases() if settings.get("orthogonality_weight") else ()
    held = weights + exact + 2 * trained + sum(map(num_bytes, bases))
    alive = 3 * trained + exact + max(meter.peak, 2 * trained + exact, weights + trained)
    images = 2 * pairs.get("replay", 1000) + 3 * pairs.get("held_out_images", 64)
    return LearningCost(name, held, alive, images * 3 * side**2)
