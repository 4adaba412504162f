"""Images of any size, read and prepared for a network; files that cannot be read are named."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.data.image_files import read_image
from realgen.functional.images import jpeg_round_trip
from realgen.functional.network_input import NetworkInput, to_network_input

Prepared = tuple[list[int], Float[Tensor, "rows 3 height width"] | None, list[str]]
"""Rows that could be read, their images, None if there is none, and files that could not be read, with the reason."""


def prepare(wanted: NetworkInput, qualities: Mapping[Path, int], files: Sequence[tuple[int, Path]]) -> Prepared:
    """Read files, each behind its row; one of ``qualities``, 1 to 100, is saved as such a JPEG and read again first."""
    rows, pixels, broken = list[int](), list[Tensor](), list[str]()
    for row, path in files:
        try:
            images = read_image(path)[None]
        except ValueError as error:
            broken.append(f"{path}: {error}")
            continue
        images = jpeg_round_trip(images, qualities[path]) if path in qualities else images
        pixels.append(to_network_input(images, wanted))
        rows.append(row)
    return rows, torch.cat(pixels) if pixels else None, broken
