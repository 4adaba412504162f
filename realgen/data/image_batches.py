"""Batches of real and generated images: which are drawn, how they are read, and what a batch holds."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from realgen.data.detector_augment import DetectorAugment
from realgen.data.image_files import ImageFile, read_image
from realgen.functional.images import center_square

CLASSES = ("real", "generated")
"""By label: 0 and 1."""


# A NamedTuple because Lightning does not rebuild frozen dataclasses; see realgen.types.PromptBatch.
class ImageBatch(NamedTuple):
    """Images of both classes with their labels."""

    images: Float[Tensor, "rows 3 size size"]
    """[B, 3, S, S] in [0, 1]."""
    labels: Int[Tensor, " rows"]
    """[B] 0 = real, 1 = generated."""
    mask: Bool[Tensor, " rows"]
    """[B] True where a row counts; False for a copy that keeps ranks in step, and for a broken file."""
    names: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]
    """Files that could not be read for this batch, each with the reason."""


class Draw(NamedTuple):
    """Which image of which class to read, and the seed of its augmentation."""

    label: int
    row: int
    seed: int
    counts: bool = True


class LabelledImage(NamedTuple):
    """One row of a batch."""

    image: Tensor
    label: int
    counts: bool
    name: str
    broken: tuple[tuple[str, str], ...] = ()


class TrainImages(Dataset[LabelledImage]):
    """Augmented images by draw, the next of a class for a broken one; ``hard_negatives``: the share of cheats."""

    def __init__(
        self, files: Sequence[Sequence[ImageFile]], size: int, augment: DetectorAugment, hard_negatives: float
    ) -> None:
        self._files = files
        self._size, self._augment, self._hard_negatives = size, augment, hard_negatives

    def __getitem__(self, draw: Draw) -> LabelledImage:
        """Read and change one image; raise ValueError if no file of its class can be read."""
        generator = torch.Generator().manual_seed(draw.seed)
        source, row, change = draw.label, draw.row, self._augment
        spoilt = draw.label == 1 and float(torch.rand((), generator=generator)) < self._hard_negatives
        if spoilt:
            source = int(torch.randint(2, (), generator=generator))
            row = int(torch.randint(len(self._files[source]), (), generator=generator))
        files, broken = self._files[source], []
        for step in range(len(files)):
            file = files[(row + step) % len(files)]
            try:
                image = read_image(file.path)
            except ValueError as error:
                broken.append((str(file.path), str(error)))
                continue
            changed = (change.cheat if spoilt else change)(image, self._size, generator)
            return LabelledImage(changed, draw.label, True, str(file.path), tuple(broken))
        first = ": ".join(broken[0])
        raise ValueError(f"none of the {len(files)} {CLASSES[source]} images can be read; first: {first}")


class ValidationImages(Dataset[LabelledImage]):
    """Validation images by draw, their largest centred square; a broken file becomes a row that does not count."""

    def __init__(self, files: Sequence[Sequence[ImageFile]], size: int) -> None:
        self._files, self._size = files, size

    def __getitem__(self, draw: Draw) -> LabelledImage:
        """Read one image."""
        file = self._files[draw.label][draw.row]
        try:
            image = center_square(read_image(file.path)[None], self._size)[0]
        except ValueError as error:
            black = torch.zeros(3, self._size, self._size)
            return LabelledImage(black, draw.label, False, str(file.path), ((str(file.path), str(error)),))
        return LabelledImage(image, draw.label, draw.counts, str(file.path))


class Batches:
    """A batch sampler of ``number`` batches that begins, at each ``iter``, at batch ``first()``."""

    def __init__(self, draws: Callable[[int], list[Draw]], *, number: int, first: Callable[[], int]) -> None:
        self._draws, self._number, self._first = draws, number, first

    def __len__(self) -> int:
        """Number of batches."""
        return self._number

    def __iter__(self) -> Iterator[list[Draw]]:
        """Begin at batch ``first()``."""
        first = self._first()
        return map(self._draws, range(first, first + self._number))


def collate(images: Sequence[LabelledImage]) -> ImageBatch:
    """Stack images into a batch."""
    return ImageBatch(
        images=torch.stack([image.image for image in images]),
        labels=torch.tensor([image.label for image in images]),
        mask=torch.tensor([image.counts for image in images]),
        names=tuple(image.name for image in images),
        broken=tuple(pair for image in images for pair in image.broken),
    )


def draw_seed(seed: int, label: int, place: int) -> int:
    """Hash a training image, ``place`` images of its class before it, into its augmentation's seed in [0, 2^63)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{label}/{place}".encode()).digest()[:8], "big") >> 1
