"""Detector checkpoints on disk: a folder of ``config.json`` and ``model.safetensors``, or a published ``.pth`` file.

What a file holds must be what the network asks for: a missing, extra or misshapen weight is an error, because a
detector that loads half its weights still answers, and answers nonsense.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from realgen.detectors.base import DetectorNetwork
from realgen.detectors.configs import VisionConfig
from realgen.detectors.published import TRAINING_ONLY, plain_name, recognise

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
NAMES_SHOWN = 8

Config = TypeVar("Config", bound=VisionConfig)


class CheckpointFiles(NamedTuple):
    """Where a checkpoint's two halves are."""

    weights: Path
    config: Path | Mapping[str, Any]
    """A file, or the numbers themselves."""


def locate(checkpoint: str, config: str | Mapping[str, Any] | None = None) -> CheckpointFiles:
    """Find the weights and the config of a checkpoint.

    Args:
        checkpoint: A folder that ``save`` wrote, or one ``.safetensors`` or ``.pth`` file.
        config: The network's config, or a JSON file with it; by default ``config.json`` in the folder, or beside
            the file.

    Returns:
        Both; the files exist.

    Raises:
        ValueError: If the checkpoint or its config is not there.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise ValueError(f"checkpoint must be a folder with {WEIGHTS_NAME}, or a file; {str(path)!r} does not exist.")
    weights = path / WEIGHTS_NAME if path.is_dir() else path
    if not weights.is_file():
        raise ValueError(f"checkpoint {str(path)!r} has no {WEIGHTS_NAME}.")
    if isinstance(config, Mapping):
        return CheckpointFiles(weights, config)
    settings = Path(config) if config is not None else weights.parent / CONFIG_NAME
    if not settings.is_file():
        raise ValueError(f"checkpoint {str(path)!r} needs its network's config; {str(settings)!r} does not exist.")
    return CheckpointFiles(weights, settings)


def save(network: DetectorNetwork, directory: str | Path) -> Path:
    """Write a detector's network as ``config.json`` and ``model.safetensors``.

    Args:
        network: With its ``config``.
        directory: Made if need be; files of these names in it are replaced.

    Returns:
        The folder, ready to be a detector's ``checkpoint``.

    Raises:
        ValueError: If the network is merged, and so no longer has the weights that were trained.
    """
    if network.merged:
        raise ValueError(f"a merged {type(network).__name__} cannot be saved; save it before merge().")
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(dataclasses.asdict(network.config), indent=2)
    (directory / CONFIG_NAME).write_text(settings + "\n", encoding="utf-8")
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(state, directory / WEIGHTS_NAME)
    return directory


def read_config(source: Path | Mapping[str, Any], kind: type[Config]) -> Config:
    """Read a network's config; keys left out keep their defaults.

    Args:
        source: A JSON file, or what one would hold.
        kind: The dataclass to make.

    Raises:
        ValueError: If the file is no JSON object, or has a key that ``kind`` does not know or a value of another type.
    """
    place = "config" if isinstance(source, Mapping) else str(source)
    values = source if isinstance(source, Mapping) else _read_json(source)
    if not isinstance(values, Mapping):
        raise ValueError(f"{place} must hold a JSON object, got {type(values).__name__}.")
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"nearest: {near[0]}" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{place} has {name!r}, which {kind.__name__} does not know; {hint}.")
        wanted = type(known[name])
        read[name] = float(value) if wanted is float and type(value) is int else value
        if type(read[name]) is not wanted:
            raise ValueError(f"{place}: {name} must be {wanted.__name__}, got {value!r}.")
    return kind(**read)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights of a ``.safetensors`` file, or of a ``.pth`` file without running code from it.

    A dict under the key ``model`` or ``state_dict`` is unwrapped; names become ours, see ``published.plain_name``.

    Raises:
        ValueError: If the file is broken, cut short or holds more than weights.
    """
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for key in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{path} must hold a state dict, alone or under the key 'model'.")
    state = {plain_name(name): value for name, value in loaded.items()}
    if len(state) < len(loaded):
        raise ValueError(f"{path} holds weights twice, with and without a prefix such as 'module.'.")
    return state


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {_first_line(error)}.") from error


def _read_torch(path: Path) -> Any:
    try:
        # Training scripts like to store their parsed arguments beside the weights; a Namespace runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        held = f"refers to {blocked[1]}, which is not run" if blocked else "is no file of weights"
        message = f"{path} cannot be read as weights alone: it {held}; save the state dict as safetensors."
        raise ValueError(message) from error
    except Exception as error:  # the unpickler stumbles over broken bytes in many ways
        raise ValueError(f"{path} is broken or cut short: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return ((str(error) or type(error).__name__).splitlines())[0].rstrip(".")


def load_exactly(
    network: nn.Module, state: Mapping[str, Tensor], source: Path, ignored: Iterable[str] = TRAINING_ONLY
) -> None:
    """Load a state dict that fits the network name by name and shape by shape.

    Args:
        network: Filled in place.
        state: Weights by name.
        source: Named in the messages.
        ignored: Last parts of names that may be in the file and are not loaded.

    Raises:
        ValueError: Naming the weights that are missing, unknown, of another shape or not finite, and the build that
            the file looks like.
    """
    ignored = frozenset(ignored)
    state = {name: value for name, value in state.items() if name.rpartition(".")[2] not in ignored}
    wanted = network.state_dict()
    problems = {
        "missing": [name for name in wanted if name not in state],
        "unknown": [name for name in state if name not in wanted],
        "of another shape": [
            f"{name} {tuple(value.shape)} (expected {tuple(wanted[name].shape)})"
            for name, value in state.items()
            if name in wanted and value.shape != wanted[name].shape
        ],
        "not finite": [name for name, value in state.items() if not bool(value.isfinite().all())],
    }
    found = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError(f"{source} does not fit {_wanted(network)}; {'; '.join([*_looks(network, state), *found])}.")
    network.load_state_dict(state)


def _wanted(network: nn.Module) -> str:
    return getattr(network, "family", type(network).__name__)


def _looks(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Describe the build that the file looks like, if it is another one."""
    build = recognise(state)
    if build is None or not isinstance(network, DetectorNetwork):
        return []
    differences = build.differences(network.config) if build.family == _wanted(network) else []
    if build.family == _wanted(network) and not differences:
        return []
    return [f"it looks like {build.family}" + (f" with {', '.join(differences)}" if differences else "")]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
