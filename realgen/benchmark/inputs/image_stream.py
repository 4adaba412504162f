"""Images from files to the scorers, a batch at a time; none is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from realgen.benchmark.inputs.matching import FormatMatching, read_matched
from realgen.functional.images import from_uint8, to_uint8


class Files(Dataset[tuple[int, Tensor]]):
    """Image files, read and made alike unless ``matching`` is None, as bytes."""

    def __init__(self, files: Sequence[Path], matching: FormatMatching | None) -> None:
        self._files, self._matching = files, matching

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._files)

    def __getitem__(self, row: int) -> tuple[int, UInt8[Tensor, "3 height width"]]:
        """Return row and image."""
        return row, to_uint8(read_matched(self._files[row], self._matching))


def stream_images(
    files: Sequence[Path],
    matching: FormatMatching | None,
    *,
    batch_size: int,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[list[int], Float[Tensor, "batch 3 height width"]]]:
    """Read images, in [0, 1] behind their rows, in order; neighbours of one size come together, at most a batch."""
    loader = DataLoader(
        Files(files, matching),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # else it would draw from the global one
    )
    for batch in loader:
        for _, group in groupby(batch, key=lambda pair: tuple(pair[1].shape)):
            rows, images = zip(*group, strict=True)
            yield list(rows), from_uint8(torch.stack(images).to(device))
