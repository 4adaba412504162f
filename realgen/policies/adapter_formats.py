"""A diffusion model's exported adapters, written again for the other tools that read them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn

from realgen.logging_filters import no_loading_bars
from realgen.policies.trained_adapters import DIFFUSERS_FILE, PEFT_FILE, PREFIXES, find_adapters, read_weights

Format = Literal["peft", "comfyui", "merged"]
"""Folders of an export beside diffusers' own file: PEFT's, kohya's and ComfyUI's, and the whole transformer."""
COMFYUI_FILE = "lora.safetensors"
"""File in the folder ``comfyui``, for ComfyUI's ``models/loras``."""

ORIGINAL_NAMES = Path(__file__).with_name("original_names.yaml")
"""Names of layers in diffusers and in the models' own releases, by pipeline; the file says how they are read."""


def original_layers(pipeline_class: str, layers: Iterable[str]) -> dict[str, list[str]]:
    """Return the release's names of adapted layers with diffusers' layers that are its rows; ValueError if unknown."""
    known = yaml.safe_load(ORIGINAL_NAMES.read_text(encoding="utf-8"))
    if pipeline_class not in known:
        raise ValueError(f"formats: comfyui knows {', '.join(known)}, got a {pipeline_class}.")
    lines = [line.split(" > ") for line in known[pipeline_class]]
    blocks: dict[str, str] = {}
    rows: dict[str, tuple[str, list[str]]] = {}
    for parts, release in ((left.split(), right) for left, right in lines):
        if parts[0].endswith("*."):
            blocks = {block: block if release == "same" else release for block in parts}
        else:
            for block, to in blocks.items():
                rows |= {f"{block}{part}": (to + release, [block + each for each in parts]) for part in parts}
    found = {}
    for layer in layers:
        number = (re.findall(r"^[a-z_.]+\.(\d+)\.", layer) or [""])[0]
        pattern = layer.replace(f".{number}.", ".*.", 1) if number else layer
        name, of_diffusers = rows.get(pattern) or ((pattern, [pattern]) if number and not rows else ("", []))
        if not name:
            raise ValueError(f"formats: comfyui has no name here for {layer!r}; adapt layers of the blocks alone.")
        found[name.replace("*", number)] = [each.replace("*", number) for each in of_diffusers]
    return found


def write_formats(directory: Path, backbone: Any, formats: Iterable[Format]) -> None:
    """Write exported adapters of a directory in more formats, each into a folder of it that is named after the format.

    ``peft``: for ``PeftModel.from_pretrained`` of the transformer. ``comfyui``: for ComfyUI, kohya's tools and their
    like. ``merged``: the transformer with the update added, in the type that ``backbone`` was read in, for
    ``from_pretrained``; the base model is read once more, from its files. Raises as ``original_layers`` does.
    """
    trained = find_adapters(directory)
    stored = {name.removeprefix(PREFIXES[DIFFUSERS_FILE]): each for name, each in read_weights(trained.file).items()}
    factors: dict[str, tuple[Tensor, Tensor]] = {
        name.removesuffix(".lora_A.weight"): (a, stored[name.replace(".lora_A.", ".lora_B.")])
        for name, a in stored.items()
        if name.endswith(".lora_A.weight")
    }
    for each in formats:
        folder = directory / each
        folder.mkdir()
        if each == "peft":
            _write_peft(folder, backbone.pretrained, stored, trained.rank, trained.targets)
        elif each == "comfyui":
            _write_comfyui(folder / COMFYUI_FILE, backbone, factors)
        else:
            _write_merged(folder, backbone, factors)


def _write_peft(folder: Path, base: str, stored: Mapping[str, Tensor], rank: int, targets: Sequence[str]) -> None:
    from peft import LoraConfig
    from safetensors.torch import save_file

    # peft has no task for drawing: without one, its model calls the transformer with any arguments.
    config = LoraConfig(r=rank, lora_alpha=rank, base_model_name_or_path=base, task_type=None, inference_mode=True)
    config.target_modules = list(targets)  # not peft's set, whose order changes
    config.save_pretrained(str(folder))
    save_file({PREFIXES[PEFT_FILE] + name: each for name, each in stored.items()}, folder / PEFT_FILE)


def _write_comfyui(file: Path, backbone: Any, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Write adapters under the release's names; layers that are one there become one adapter of the sum of ranks."""
    from safetensors.torch import save_file

    with torch.device("meta"):  # the release's rows of layers that are not adapted, under plain names
        kind: Any = backbone.transformer_class
        empty = kind.from_config(
            kind.load_config(backbone.pretrained, subfolder="transformer", local_files_only=backbone.local_files_only)
        )
    rows = {name: layer.out_features for name, layer in empty.named_modules() if isinstance(layer, nn.Linear)}
    written: dict[str, Tensor] = {}
    for original, parts in original_layers(backbone.pipeline_class, factors).items():
        ups = [factors[part][1] if part in factors else torch.zeros(rows[part], 0) for part in parts]
        down = torch.cat([factors[part][0] for part in parts if part in factors])
        name = f"lora_unet_{original.replace('.', '_')}"
        written[f"{name}.lora_down.weight"] = down
        written[f"{name}.lora_up.weight"] = torch.block_diag(*ups) if len(ups) > 1 else ups[0]
        written[f"{name}.alpha"] = torch.tensor(float(len(down)))
    save_file(written, file)


def _write_merged(folder: Path, backbone: Any, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    with torch.device("cpu"), no_loading_bars():
        where: Any = {"subfolder": "transformer", "local_files_only": backbone.local_files_only}
        whole = backbone.transformer_class.from_pretrained(backbone.pretrained, dtype=backbone.dtype, **where)
        for name, (a, b) in factors.items():
            weight = whole.get_submodule(name).weight
            weight.data = (weight.data.float() + b @ a).to(weight.dtype)
        whole.save_pretrained(folder)
