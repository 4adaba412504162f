"""Prompts and real images in WebDataset tar shards, images in folders: written, read, and dealt out to the ranks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realgen.data.detector_augment import DetectorAugment
    from realgen.data.image_batches import ImageBatch
    from realgen.data.image_folders import ImageFolders
    from realgen.data.order import prompt_indices, prompt_seed, validation_rows
    from realgen.data.prompt_shards import PromptShards
    from realgen.data.prompt_table import PromptTable
    from realgen.data.shards import write_shards

__all__ = [
    "DetectorAugment",
    "ImageBatch",
    "ImageFolders",
    "PromptShards",
    "PromptTable",
    "prompt_indices",
    "prompt_seed",
    "validation_rows",
    "write_shards",
]

_HOME = {
    "DetectorAugment": "detector_augment",
    "ImageBatch": "image_batches",
    "ImageFolders": "image_folders",
    "PromptShards": "prompt_shards",
    "PromptTable": "prompt_table",
    "prompt_indices": "order",
    "prompt_seed": "order",
    "validation_rows": "order",
    "write_shards": "shards",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that ``make_shards --help`` does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
