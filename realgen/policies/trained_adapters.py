"""Adapters written by a policy's ``export``, read back exactly or not at all.

Not by peft's ``set_peft_model_state_dict``, which counts the frozen weights among the missing ones and does not name
the layers that another policy adapted.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from realgen.given_files import parse_json, read_json

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""Weights of a diffusion model's adapters, with rank, alpha and targets in its header."""
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""Weights of a language model's adapters, and rank, alpha and targets beside them."""
PREFIXES = {DIFFUSERS_FILE: "transformer.", PEFT_FILE: "base_model.model."}
"""Prefixes of the layers' names."""
OTHER_SCALES = ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora")
"""Settings of peft that change the update from (alpha / rank) B A; a policy never sets them."""
NAMES_SHOWN = 3


class TrainedAdapters(NamedTuple):
    """Description of a directory's adapters."""

    file: Path
    rank: int
    """Columns of B and rows of A."""
    alpha: float
    """alpha / rank multiplies B A."""
    targets: list[str]
    """Ends of the names of the adapted layers, sorted."""


def find_adapters(directory: str | Path) -> TrainedAdapters:
    """Read the description, without weights, of adapters that ``export`` wrote; ValueError if none fit."""
    folder = Path(directory)
    file = next((folder / name for name in PREFIXES if (folder / name).is_file()), None)
    if file is None:
        inner = sorted(path.parent for name in PREFIXES for path in folder.glob(f"*/{name}"))
        hint = f" {str(inner[0])!r} is one." if inner else ""
        raise ValueError(
            f"pretrained must be a directory with {' or '.join(PREFIXES)}, as export writes it, got "
            f"{str(directory)!r}.{hint}"
        )
    config = _read_config(file)
    odd = [name for name in OTHER_SCALES if config.get(name)]
    if odd:
        raise ValueError(f"pretrained {str(directory)!r} has adapters of another kind: {', '.join(odd)} is set.")
    try:
        rank, alpha, targets = int(config["r"]), float(config["lora_alpha"]), sorted(config["target_modules"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"pretrained {str(directory)!r} does not say r, lora_alpha and target_modules of its adapters ({error})."
        ) from error
    return TrainedAdapters(file, rank, alpha, targets)


def load_adapters(model: nn.Module, trained: TrainedAdapters, adapter: str, *, scale: float) -> None:
    """Load a file into attached adapters, B A times ``scale`` whatever the alphas; ValueError if it does not fit."""
    file, factor = trained.file, trained.alpha / trained.rank / scale
    stored = {}
    for name, weight in read_weights(file).items():  # peft leaves the adapter's name out in files
        layer = name.removeprefix(PREFIXES[file.name])
        stored[re.sub(r"\.(lora_[AB])\.weight$", rf".\1.{adapter}.weight", layer)] = weight
    own = {name: p for name, p in model.named_parameters() if f".{adapter}." in name and ".lora_" in name}
    where, kind = f"pretrained {str(file.parent)!r}", type(model).__name__
    unknown, lacking = sorted(stored.keys() - own.keys()), sorted(own.keys() - stored.keys())
    if unknown or lacking:
        sides = {"adapts, and the policy does not": unknown, "does not adapt, and the policy does": lacking}
        found = [f"{what}: {', '.join(names[:NAMES_SHOWN])}" for what, names in sides.items() if names]
        raise ValueError(f"{where} is for other targets or another model than this {kind}; it {'; it '.join(found)}.")
    misshapen = [name for name, weight in stored.items() if weight.shape != own[name].shape]
    if misshapen:
        name = misshapen[0]
        raise ValueError(
            f"{where} is for another model than this {kind}: {name} has the shape {tuple(stored[name].shape)}, here it "
            f"is {tuple(own[name].shape)}."
        )
    with torch.no_grad():
        for name, weight in stored.items():
            own[name].copy_(weight * factor if ".lora_B." in name else weight)


def _read_config(file: Path) -> Mapping[str, Any]:
    """Read peft's config of the adapters."""
    from safetensors import SafetensorError, safe_open

    try:
        if file.name == PEFT_FILE:
            config = read_json(file.parent / PEFT_CONFIG)
        else:
            with safe_open(file, "pt") as opened:
                stored = parse_json((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
            config = {name.removeprefix(PREFIXES[file.name]): value for name, value in stored.items()}
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise ValueError(
            f"pretrained: the adapters' settings in {str(file.parent)!r} cannot be read: {error}"
        ) from error
    return config


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read adapters' weights by the names that they have in a file; raise ValueError if it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"pretrained: {str(file)!r} cannot be read: {error}") from error
