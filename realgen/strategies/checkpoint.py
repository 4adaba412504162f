"""Checkpoints of sharded weights: one file as of every strategy, or a folder to which each rank writes its shards.

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

from realgen.parallel import whole
from realgen.policies.whole_weights import placed_like

META = "meta.pt"
"""File of everything in a checkpoint that is no tensor."""
Template = Callable[[str, torch.Size, torch.dtype], Tensor]
"""Returns the tensor into which a stored one is read, from its key, shape and type."""


def write_folder(checkpoint: dict[str, Any], folder: Path, *, first: bool) -> None:
    """Write each rank's shards and, once, what all ranks share; every rank must call it.

    Args:
        checkpoint: As Lightning makes it; sharded tensors stay sharded. Loses its tensors.
        folder: Made if missing.
        first: Whether this rank writes what all ranks share.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save(_take_tensors(checkpoint), storage_writer=FileSystemWriter(folder))
    if first:
        torch.save(checkpoint, folder / META)


def read_folder(folder: Path, template: Template) -> dict[str, Any]:
    """Read what ``write_folder`` wrote; every rank must call it.

    The folder's ``.metadata`` is a pickle: read only folders that you trust.

    Args:
        folder: The checkpoint.
        template: Decides how each tensor is sharded and placed here.

    Returns:
        The checkpoint.
    """
    stored: Any = FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {key: template(key, each.size, each.properties.dtype) for key, each in stored.items()}
    load(tensors, storage_reader=FileSystemReader(folder))
    checkpoint = torch.load(folder / META, map_location="cpu", weights_only=True)
    _put_tensors(checkpoint, tensors)
    return checkpoint


def template_like(weights: Mapping[str, Tensor], optimizers: list[Optimizer]) -> Template:
    """Return a template that shards and places a checkpoint's tensors like the weights they belong to.

    Args:
        weights: The trained weights by name.
        optimizers: Of these weights; none if only weights are read.
    """
    likes = {f"weights/{name}": weight for name, weight in weights.items()}
    for number, optimizer in enumerate(optimizers):
        likes |= {f"optimizers/{number}/{i}": weight for i, weight in enumerate(_optimized(optimizer))}

    def template(key: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
        like = likes.get(key if key.startswith("weights/") else key.rpartition("/")[0])
        if like is None or like.shape != size:  # of another policy, or a step counter
            return torch.empty(size, dtype=dtype)
        return torch.zeros_like(like, dtype=dtype, requires_grad=False)

    return template


def gathered(value: Any, *, keep: bool) -> Any:
    """Return mappings, lists and tensors with sharded tensors made whole, on the CPU; every rank must call it.

    Without ``keep`` a rank does not need the result, and gets empty tensors to save its memory.
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
    """Return an optimizer's state dict, of whole tensors or shards, with each moment placed like its weight."""
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
