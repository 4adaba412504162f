"""Images of any size, read one by one and prepared for a network; files that cannot be read are named."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from realgen.data.image_files import ImageFile, read_image
from realgen.functional.images import jpeg_round_trip
from realgen.functional.network_input import NetworkInput, to_network_input


class PreparedImages(NamedTuple):
    """A batch of images, without those that could not be read."""

    rows: list[int]
    """Index of each image's file."""
    pixels: Float[Tensor, "rows 3 height width"] | None
    """[B, 3, H, W] as the network wants them; None if none could be read."""
    broken: list[str]
    """Files that could not be read, with the reason."""


class ProbeImages(Dataset[PreparedImages]):
    """Read images of many sizes for a network that takes one.

    ``qualities`` are those, 1 to 100, at which a file's image is saved as JPEG and read again first.
    """

    def __init__(
        self, files: Sequence[ImageFile], wanted: NetworkInput, qualities: Mapping[Path, int] | None = None
    ) -> None:
        self._files, self._wanted, self._qualities = files, wanted, dict(qualities or {})

    def __len__(self) -> int:
        """Number of files."""
        return len(self._files)

    def __getitem__(self, row: int) -> PreparedImages:
        """Read one file."""
        path = self._files[row].path
        try:
            images = read_image(path)[None]
        except ValueError as error:
            return PreparedImages([], None, [f"{path}: {error}"])
        if path in self._qualities:
            images = jpeg_round_trip(images, self._qualities[path])
        return PreparedImages([row], to_network_input(images, self._wanted), [])


def collate(parts: Sequence[PreparedImages]) -> PreparedImages:
    """Concatenate batches."""
    pixels = [part.pixels for part in parts if part.pixels is not None]
    return PreparedImages(
        rows=[row for part in parts for row in part.rows],
        pixels=torch.cat(pixels) if pixels else None,
        broken=[text for part in parts for text in part.broken],
    )
