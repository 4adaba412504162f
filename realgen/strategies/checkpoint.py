"""Checkpoints of sharded weights: one file as every strategy writes it, or a folder to which each rank adds its shards.

Both hold the same mapping, the checkpoint of Lightning. In the folder its tensors are stored by PyTorch's distributed
checkpoint, which reads them back on any number of ranks; ``meta.pt`` is the mapping without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from realgen.parallel import placed_like, whole

META = "meta.pt"
"""What of a folder is no tensor."""
Template = Callable[[str, torch.Size, torch.dtype], Tensor]
"""From the key, shape and type of a stored tensor to one of that kind, which is then filled."""


def write_folder(checkpoint: dict[str, Any], folder: Path, *, first: bool) -> None:
    """Write each rank's shards and, once, what all have; every rank must call it.

    Args:
        checkpoint: As Lightning makes it; sharded tensors stay sharded. Loses its tensors.
        folder: Made if missing.
        first: Whether this is the rank that writes what all have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save(_take_tensors(checkpoint), storage_writer=FileSystemWriter(folder))
    if first:
        torch.save(checkpoint, folder / META)


def read_folder(folder: Path, template: Template, *, alone: bool = False) -> dict[str, Any]:
    """Read what ``write_folder`` wrote; unless ``alone``, every rank must call it.

    The folder's ``.metadata`` is a pickle: read only folders that you trust.

    Args:
        folder: The checkpoint.
        template: Says how each tensor shall lie on this machine.
        alone: Whether one process reads without the others.

    Returns:
        The checkpoint.
    """
    stored: Any = FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {key: template(key, each.size, each.properties.dtype) for key, each in stored.items()}
    load(tensors, storage_reader=FileSystemReader(folder), no_dist=alone)
    checkpoint = torch.load(folder / META, map_location="cpu", weights_only=True)
    _put_tensors(checkpoint, tensors)
    return checkpoint


def consolidate(folder: Path, file: Path) -> Path:
    """Turn a sharded checkpoint into one file, which every strategy and a single device resume.

    Needs neither a GPU nor the ranks that wrote it, only memory for the trained weights and their optimizer's state.

    Args:
        folder: The sharded checkpoint, such as ``RUN/checkpoints/last.ckpt``.
        file: Where to write.

    Returns:
        The file.

    Raises:
        ValueError: If there is no sharded checkpoint in the folder.
    """
    if not (folder / META).is_file():
        raise ValueError(f"folder must be a sharded checkpoint, with a {META} inside, got {str(folder)!r}.")
    checkpoint = read_folder(folder, lambda _, size, dtype: torch.empty(size, dtype=dtype), alone=True)
    torch.save(checkpoint, file)
    return file


def template_like(weights: Mapping[str, Tensor], optimizers: list[Optimizer]) -> Template:
    """Tensors of a checkpoint that shall lie as the weights do: sharded alike, on the same device.

    Args:
        weights: The trained weights by name.
        optimizers: Theirs; none where only weights are wanted.
    """
    owners = {f"weights/{name}": weight for name, weight in weights.items()}
    for number, optimizer in enumerate(optimizers):
        owners |= {f"optimizers/{number}/{i}": weight for i, weight in enumerate(_optimized(optimizer))}

    def template(key: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
        owner = owners.get(key if key.startswith("weights/") else key.rpartition("/")[0])
        if owner is None or owner.shape != size:  # of another policy, or no moment but a counter
            return torch.empty(size, dtype=dtype)
        return torch.zeros_like(owner, dtype=dtype, requires_grad=False)

    return template


def gathered(value: Any, *, keep: bool) -> Any:
    """A checkpoint's value with sharded tensors made whole, on the CPU; every rank must call it.

    Args:
        value: Mappings, lists and tensors.
        keep: Whether this rank needs the result; others get empty tensors, so that only one holds it all.
    """
    if isinstance(value, dict):
        return {key: gathered(child, keep=keep) for key, child in value.items()}
    if isinstance(value, list):
        return [gathered(child, keep=keep) for child in value]
    if isinstance(value, Tensor):
        full = whole(value.detach())
        return full.cpu() if keep else torch.empty(0)
    return value


def placed_state(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's state with each moment where its weight is, in the same shards.

    Args:
        state: As ``Optimizer.state_dict`` gives it, of whole tensors or of shards as they are here.
        optimizer: Of the same weights in the same order.
    """
    weights = _optimized(optimizer)
    entries = {
        number: {
            name: placed_like(value, weights[number]) if _is_whole_moment(value, weights[number]) else value
            for name, value in entry.items()
        }
        for number, entry in state["state"].items()
    }
    return {**state, "state": entries}


def _is_whole_moment(value: Any, weight: Tensor) -> bool:
    return isinstance(value, Tensor) and type(value) is Tensor and value.ndim > 0 and value.shape == weight.shape


def _optimized(optimizer: Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _take_tensors(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Move the tensors of the weights and of the optimizers' states out of a checkpoint, under flat keys."""
    tensors = {f"weights/{name}": weight for name, weight in checkpoint["state_dict"].items()}
    checkpoint["state_dict"] = {}
    states = checkpoint.get("optimizer_states", [])
    for number, state in enumerate(states):
        kept: dict[int, dict[str, Any]] = {}
        for i, entry in state["state"].items():
            found = {name: value for name, value in entry.items() if isinstance(value, Tensor)}
            tensors |= {f"optimizers/{number}/{i}/{name}": value for name, value in found.items()}
            kept[i] = {name: value for name, value in entry.items() if name not in found}
        states[number] = {**state, "state": kept}
    return tensors


def _put_tensors(checkpoint: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    for key, value in tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "weights":
            checkpoint["state_dict"][rest] = value
        else:
            number, i, name = rest.split("/")
            checkpoint["optimizer_states"][int(number)]["state"][int(i)][name] = value
