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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from realgen.detectors.clip_vision import ClipDetectorNetwork, ClipTower

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
NAMES_SHOWN = 8

Config = TypeVar("Config", bound=ClipTower)


class CheckpointFiles(NamedTuple):
    """Where a checkpoint's two halves lie."""

    weights: Path
    config: Path


def locate(checkpoint: str, config: str | None = None) -> CheckpointFiles:
    """Find the weights and the config of a checkpoint.

    Args:
        checkpoint: A folder that ``save`` wrote, or one ``.safetensors`` or ``.pth`` file.
        config: The network's numbers as JSON; by default ``config.json`` in the folder, or beside the file.

    Returns:
        Both paths; both files exist.

    Raises:
        ValueError: If the checkpoint or its config is not there.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise ValueError(f"checkpoint must be a folder with {WEIGHTS_NAME}, or a file; {str(path)!r} does not exist.")
    weights = path / WEIGHTS_NAME if path.is_dir() else path
    settings = Path(config) if config is not None else weights.parent / CONFIG_NAME
    if not weights.is_file():
        raise ValueError(f"checkpoint {str(path)!r} has no {WEIGHTS_NAME}.")
    if not settings.is_file():
        raise ValueError(f"checkpoint {str(path)!r} needs its network's config; {str(settings)!r} does not exist.")
    return CheckpointFiles(weights, settings)


def save(network: ClipDetectorNetwork, directory: str | Path) -> Path:
    """Write a detector's network as ``config.json`` and ``model.safetensors``.

    Args:
        network: With its ``config``.
        directory: Made if need be; files of these names in it are replaced.

    Returns:
        The folder, ready to be a detector's ``checkpoint``.
    """
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(dataclasses.asdict(network.config), indent=2)
    (directory / CONFIG_NAME).write_text(settings + "\n", encoding="utf-8")
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(state, directory / WEIGHTS_NAME)
    return directory


def read_config(path: Path, kind: type[Config]) -> Config:
    """Read a network's config; keys left out keep their defaults.

    Raises:
        ValueError: If the file is no JSON object, or has a key that ``kind`` does not know or a value of another type.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}.")
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"nearest: {near[0]}" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{path} has {name!r}, which {kind.__name__} does not know; {hint}.")
        if type(value) is not type(known[name]):
            raise ValueError(f"{path}: {name} must be {type(known[name]).__name__}, got {value!r}.")
    return kind(**values)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights of a ``.safetensors`` file, or of a ``.pth`` file without running code from it.

    A dict under the key ``model`` is unwrapped; ``module.`` (left by data-parallel training) and ``vision_model.``
    (left by older transformers) are dropped from the names.

    Raises:
        ValueError: If the file cannot be read as weights.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        loaded: Any = load_file(path)
    else:
        try:
            # Training scripts like to store their parsed arguments beside the weights; a Namespace runs no code.
            with torch.serialization.safe_globals([argparse.Namespace]):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            cause = str(error).splitlines()[0]
            raise ValueError(f"{path} cannot be read as weights alone ({cause}); save it as safetensors.") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        loaded = loaded["model"]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{path} must hold a state dict, alone or under the key 'model'.")
    return {_plain_name(name): value for name, value in loaded.items()}


def _plain_name(name: str) -> str:
    return name.removeprefix("module.").replace("vision_model.", "")


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], source: Path, ignored: Iterable[str] = ()) -> None:
    """Load a state dict that fits the network name by name and shape by shape.

    Args:
        network: Filled in place.
        state: Weights by name.
        source: Named in the messages.
        ignored: Last parts of names that may be in the file and are not loaded.

    Raises:
        ValueError: Naming the weights that are missing, unknown or of another shape.
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
    }
    found = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError(f"{source} does not fit {type(network).__name__}; {'; '.join(found)}.")
    network.load_state_dict(state)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
