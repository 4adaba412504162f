"""Checkpoints of sharded weights: one file as of every strategy, or a folder to which each rank writes its shards.

Both hold the same mapping, the checkpoint of Lightning. In the folder its tensors are stored by PyTorch's distributed
checkpoint, which reads them back on any number of ranks; ``meta.pt`` is the mapping without them.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from realgen.checkpoint_files import META
from realgen.checks import first_line
from realgen.parallel import whole
from realgen.policies.whole_weights import placed_like
from realgen.whole_files import written_whole

_INDEX = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "ChunkStorageMetadata", "TensorStorageMetadata"),
        *("TensorProperties", "_MEM_FORMAT_ENCODING"),
    },
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},  # from Python 3.13 on
}
"""What PyTorch puts into ``.metadata``, by module."""
Template = Callable[[str, torch.Size, torch.dtype], Tensor]
"""Returns the tensor into which a stored one is read, from its key, shape and type."""


class WholeFileIO(TorchCheckpointIO):
    """Write a checkpoint beside its place; Lightning's own goes through the temporary folder, which may be full."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a file, whole or not at all; what is no local path is left to Lightning."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with written_whole(Path(path)) as unfinished, unfinished.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # PyTorch's, which says nothing of the disk
                if not isinstance(error.__context__, OSError):
                    raise
                raise OSError(error.__context__.errno, error.__context__.strerror, str(path)) from error


def write_folder(checkpoint: dict[str, Any], folder: Path, *, first: bool) -> None:
    """Write each rank's shards and, on the ``first`` rank, what all ranks share; every rank must call it.

    The checkpoint is as Lightning makes it, sharded tensors sharded, and loses its tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save(_take_tensors(checkpoint), storage_writer=FileSystemWriter(folder))
    if first:
        torch.save(checkpoint, folder / META)


def read_folder(folder: Path, template: Template) -> dict[str, Any]:
    """Read what ``write_folder`` wrote, each tensor placed by the template; every rank must call it.

    ValueError if the folder's ``.metadata`` is no index of tensors that its files can hold.
    """
    stored: Any = IndexReader(folder).read_metadata().state_dict_metadata
    tensors = {key: template(key, each.size, each.properties.dtype) for key, each in stored.items()}
    load(tensors, storage_reader=IndexReader(folder), no_dist=not torch.distributed.is_initialized())
    checkpoint = torch.load(folder / META, map_location="cpu", weights_only=True)
    _put_tensors(checkpoint, tensors)
    return checkpoint


class IndexReader(FileSystemReader):
    """PyTorch's reader, which unpickles only what PyTorch's writer puts into ``.metadata``: it runs no code."""

    def read_metadata(self, *_: Any, rank: int | None = None) -> Metadata:
        """Return the index; raise ValueError if it holds anything else, or more than the folder's files can."""
        path = Path(self._get_metadata_path(rank))
        try:
            with path.open("rb") as file:
                found = _IndexUnpickler(file).load()
            stored, files = found.state_dict_metadata.values(), found.storage_data.values()
            needed = sum(each.size.numel() * each.properties.dtype.itemsize for each in stored)
            held = sum(
                (path.parent / name).stat().st_size for name in {Path(each.relative_path).name for each in files}
            )
            if needed > held or not all(type(each) is TensorStorageMetadata for each in stored):
                raise ValueError(f"its entries need {needed} bytes or are no tensors, the files have {held}")
            if any(each.relative_path != Path(each.relative_path).name for each in files):
                raise ValueError("it names files outside the folder")
        except Exception as error:  # an unpickler stumbles over broken bytes in many ways
            raise ValueError(f"{str(path)!r} is no index of a sharded checkpoint: {first_line(error)}") from error
        found.storage_meta = getattr(found, "storage_meta", None) or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _IndexUnpickler(pickle._Unpickler):  # the one in C takes 64 GB for a memo of one entry with a large number
    def find_class(self, module: str, name: str) -> Any:
        """Return a class of the index, or a dtype; raise UnpicklingError for everything else."""
        if name in _INDEX.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def template_like(weights: Mapping[str, Tensor], optimizers: list[Optimizer]) -> Template:
    """Return a template that shards and places a checkpoint's tensors like these weights, and any optimizers'."""
    likes = {f"weights/{name}": weight for name, weight in weights.items()}
    for number, optimizer in enumerate(optimizers):
        likes |= {f"optimizers/{number}/{i}": weight for i, weight in enumerate(_optimized(optimizer))}

    def template(key: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
        kind, _, rest = key.partition("/")
        if kind == "averages":  # their names begin inside the policy
            key = f"weights/policy.{rest.partition('/')[2]}"
        like = likes.get(key.rpartition("/")[0] if kind == "optimizers" else key)
        if like is None or like.shape != size:  # of another policy, or a step counter
            return torch.empty(size, dtype=dtype)
        return torch.zeros_like(like, dtype=dtype, requires_grad=False)

    return template


def gathered(value: Any, *, keep: bool) -> Any:
    """Return nested tensors whole, on the CPU, empty ones without ``keep``; every rank must call it."""
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
    """Move the tensors of weights, averages and optimizers' states out of a checkpoint, under flat keys."""
    states = checkpoint.get("optimizer_states", [])
    for number, state in enumerate(states):  # of which the optimizer itself still has the entries
        states[number] = {**state, "state": {i: dict(entry) for i, entry in state["state"].items()}}
    tensors: dict[str, Any] = {}
    for prefix, values in _holders(checkpoint):
        found = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        tensors |= {f"{prefix}/{name}": values.pop(name) for name in found}
    return tensors


def _put_tensors(checkpoint: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    holders = dict(_holders(checkpoint))
    for key, value in tensors.items():
        prefix, _, name = key.rpartition("/")
        holders[prefix][name] = value


def _holders(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the mappings that hold a checkpoint's tensors, each with the beginning of their flat keys."""
    yield "weights", checkpoint["state_dict"]
    for number, state in enumerate(checkpoint.get("optimizer_states", [])):
        for i, entry in state["state"].items():
            yield f"optimizers/{number}/{i}", entry
    averages = [*checkpoint.get("callbacks", {}).values(), *checkpoint.get("lagged", {}).values()]
    for number, state in enumerate(averages):  # of each `EMA`, and lagged weights
        if isinstance(state, dict) and isinstance(weights := state.get("weights"), dict):
            yield f"averages/{number}", weights
