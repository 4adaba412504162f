"""Detector checkpoints on disk: a folder of ``config.json`` and ``model.safetensors``, or a published ``.pth`` file.

What a file holds must be what the network asks for: a missing, extra or misshapen weight is an error, because a
detector that loads half its weights still answers, and answers nonsense.
"""

import argparse
import dataclasses
import json
import pickle
import re
import zipfile
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from realgen.checks import first_line, nearest_name
from realgen.detectors.base import DetectorNetwork, NetworkDetector
from realgen.detectors.configs import VisionConfig
from realgen.detectors.published import TRAINING_ONLY, plain_name, recognise
from realgen.given_files import read_json
from realgen.hub_files import HUB, check_file, how_to_fetch, local_file
from realgen.whole_files import save_tensors

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
NAMES_SHOWN = 8

Config = TypeVar("Config", bound=VisionConfig)


def locate(checkpoint: str, config: str | VisionConfig | None = None) -> tuple[str, Path | VisionConfig]:
    """Find the weights and the config of a checkpoint, a folder that ``save`` wrote or a .safetensors or .pth file.

    Returned are the weights' file, or its address on the hub, and the config or its file.
    ``config`` is the network's config, or a JSON file with it; by default ``config.json`` in the folder, or beside the
    file. For a file on the hub, which is not fetched here, it must be given.

    Raises:
        ValueError: If the checkpoint or its config is not there.
    """
    if checkpoint.startswith(HUB):
        check_file(checkpoint, "checkpoint")
        if config is None:
            raise ValueError(f"checkpoint {checkpoint!r} needs its network's config; give config, or a JSON file.")
        return checkpoint, config if isinstance(config, VisionConfig) else Path(config)
    path = Path(checkpoint)
    if not path.exists():
        raise ValueError(
            f"checkpoint must be a folder with {WEIGHTS_NAME}, or a file; {str(path)!r} does not exist."
            f"{how_to_fetch(checkpoint)}"
        )
    weights = path / WEIGHTS_NAME if path.is_dir() else path
    if not weights.is_file():
        raise ValueError(f"checkpoint {str(path)!r} has no {WEIGHTS_NAME}.")
    if isinstance(config, VisionConfig):
        return str(weights), config
    settings = Path(config) if config is not None else weights.parent / CONFIG_NAME
    if not settings.is_file():
        raise ValueError(f"checkpoint {str(path)!r} needs its network's config; {str(settings)!r} does not exist.")
    return str(weights), settings


def save(network: DetectorNetwork, directory: str | Path) -> Path:
    """Write a detector's network as ``config.json`` and ``model.safetensors`` into a folder, and return it.

    It is ready to be a detector's ``checkpoint``. Files of these names in it are replaced.

    Raises:
        ValueError: If the network is merged, and so no longer has the weights that were trained.
    """
    if network.merged:
        raise ValueError(f"a merged {type(network).__name__} cannot be saved; save it before merge().")
    return write_folder(directory, network.state_dict(), network.config)


def write_folder(directory: str | Path, weights: Mapping[str, Tensor], config: Any = None) -> Path:
    """Write ``model.safetensors`` and, of a dataclass, ``config.json`` into a folder, which is made and returned."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (directory / CONFIG_NAME).write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n", encoding="utf-8")
    save_tensors({name: value.detach().cpu().contiguous() for name, value in weights.items()}, directory / WEIGHTS_NAME)
    return directory


def read_config(source: Path | VisionConfig, kind: type[Config]) -> Config:
    """Return a config, or read it from JSON with ``kind``'s defaults; ValueError or TypeError if it is no such."""
    if isinstance(source, kind):
        return source
    if isinstance(source, VisionConfig):
        raise TypeError(f"config must be an {kind.__name__}, got {source!r}.")
    place, values = str(source), read_json(source)
    if not isinstance(values, Mapping):
        raise ValueError(f"{place} must hold a JSON object, got {type(values).__name__}.")
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = nearest_name(name, known)
            hint = f"nearest: {near}" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{place} has {name!r}, which {kind.__name__} does not know; {hint}.")
        wanted = type(known[name])
        read[name] = float(value) if wanted is float and type(value) is int and abs(value) < 2**63 else value
        if type(read[name]) is not wanted:
            raise ValueError(f"{place}: {name} must be {wanted.__name__}, got {value!r}.")
    return kind(**read)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read weights, under our names, without running code of a ``.pth`` file; ValueError if it is broken or more."""
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
        raise ValueError(f"{path} is no whole safetensors file: {first_line(error).rstrip('.')}.") from error


def _read_torch(path: Path) -> Any:
    try:
        # Training scripts like to store their parsed arguments beside the weights; a Namespace runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Mapped as safetensors files are: pages that ranks share, and no copy beside the network's own weights.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        held = f"refers to {blocked[1]}, which is not run" if blocked else "is no file of weights"
        message = f"{path} cannot be read as weights alone: it {held}; save the state dict as safetensors."
        raise ValueError(message) from error
    except Exception as error:  # the unpickler stumbles over broken bytes in many ways
        raise ValueError(f"{path} is broken or cut short: {first_line(error).rstrip('.')}.") from error


def load_exactly(
    network: nn.Module, state: Mapping[str, Tensor], source: Path, ignored: Iterable[str] = TRAINING_ONLY
) -> None:
    """Load a state dict that fits the network, in place, see ``fitting``."""
    network.load_state_dict(fitting(network, state, source, ignored))


def fitting(
    network: nn.Module, state: Mapping[str, Tensor], source: Path, ignored: Iterable[str] = TRAINING_ONLY
) -> dict[str, Tensor]:
    """Return the weights of a state dict that fits the network name by name and shape by shape.

    The network may be on the device ``meta``. ``source`` is named in messages. Names whose last part is in ``ignored``
    may be in the file and are left out.

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
    found = []
    for what, names in problems.items():
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        found += [f"{what}: {', '.join(names[:NAMES_SHOWN])}{more}"] if names else []
    if found:
        raise ValueError(f"{source} does not fit {_wanted(network)}; {'; '.join([*_looks(network, state), *found])}.")
    return state


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


class CheckpointDetector(NetworkDetector):
    """A ``DetectorNetwork`` from disk.

    ValueError if a file is missing, or the config has an unknown key or impossible numbers; TypeError if the config is
    another network's.

    Args:
        checkpoint: A folder with ``config.json`` and ``model.safetensors``, or a ``.safetensors`` or published
            ``.pth`` file, or ``hf-hub:OWNER/REPOSITORY/FILE`` with ``config``, which is fetched when it is read.
        config: The network's config where it differs from the published one, or a JSON file with it; needed for a
            checkpoint without ``config.json`` beside it.
        dtype: ``float32`` is exact; ``bfloat16`` is several times faster where the hardware multiplies in it, for the
            price that ``p_fake`` moves by some hundredths, and that it depends on the batch by as much.
        batch_size: Images per forward pass; a CPU is fastest with 2 or so.
    """

    config_type: ClassVar[type[VisionConfig]]

    def __init__(
        self,
        checkpoint: str,
        config: VisionConfig | str | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        batch_size: int = 64,
    ) -> None:
        super().__init__(batch_size)
        self._dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        self._weights, source = locate(checkpoint, config)
        self._config: Any = read_config(source, self.config_type)

    @property
    @abstractmethod
    def network_type(self) -> Any:
        """The ``DetectorNetwork`` made of a ``config_type``."""

    def build(self) -> nn.Module:
        """Read the weights; raise ValueError that names those which do not fit the config."""
        weights = local_file(self._weights)
        with torch.device("meta"):  # a config may ask for any size: nothing is allocated until the weights fit it
            fit = fitting(self.network_type(self._config), read_state_dict(weights), weights)
        network: DetectorNetwork = self.network_type(self._config)
        network.load_state_dict(fit)
        network.scoring_dtype = self._dtype
        return network
