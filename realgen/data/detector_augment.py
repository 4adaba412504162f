"""How an image of any size becomes a training example of a detector."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms import v2

from realgen.functional.corruptions import CHEATS
from realgen.functional.images import center_square, jpeg_round_trip, resize


@dataclass(frozen=True)
class DetectorAugment:
    """Remove shortcuts from training images of both classes alike: crop, flip, rescale, blur, JPEG.

    Some images stay as in validation and use: a detector that never saw one whole and unchanged gets worse at them. The
    defaults suit detectors of 224 pixels and more. Smaller ones want milder blur and rescaling and fewer crops, because
    enlarging a crop takes away the finest detail. ValueError if a number is out of its range.
    """

    crop: float = 0.8
    """Probability of a random crop; without it, the largest centred square is taken."""
    crop_area: tuple[float, float] = (0.4, 1.0)
    """Share of the image's area that a random crop cuts out."""
    aspect: tuple[float, float] = (0.75, 1.3333)
    """Width over height of what is cut out and made square."""
    flip: float = 0.5
    """Probability of a mirror image."""
    rescale: float = 0.3
    """Probability of shrinking and enlarging again."""
    rescale_factor: tuple[float, float] = (0.5, 1.0)
    """Of height and width."""
    blur: float = 0.3
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 1.5)
    """Standard deviation in pixels."""
    jpeg: float = 0.7
    """Probability of a JPEG round trip."""
    jpeg_quality: tuple[int, int] = (50, 98)
    """Of the file."""

    def __post_init__(self) -> None:
        for name in ("crop", "flip", "rescale", "blur", "jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a probability, 0 to 1, got {getattr(self, name)}.")
        for name, low, high in (
            ("crop_area", 0.0, 1.0),
            ("aspect", 0.0, float("inf")),
            ("rescale_factor", 0.0, 1.0),
            ("blur_sigma", 0.0, float("inf")),
            ("jpeg_quality", 0, 100),
        ):
            first, last = getattr(self, name)
            if not low < first <= last <= high:
                raise ValueError(f"{name} must rise within {low} (excluded) and {high}, got {first} to {last}.")

    def __call__(
        self, image: Float[Tensor, "3 height width"], size: int, generator: torch.Generator
    ) -> Float[Tensor, "3 size size"]:
        """Change an image in [0, 1] of any size, and make it square with ``size`` pixels a side, by a CPU generator."""
        blur = v2.GaussianBlur(2 * max(math.ceil(3 * self.blur_sigma[1]), 1) + 1, self.blur_sigma)
        with _drawing_from(generator):
            images = self._cut(image, size)
            for probability, change in ((self.rescale, self._rescaled), (self.blur, blur), (self.jpeg, self._as_jpeg)):
                images = v2.RandomApply([change], probability)(images)
        return images[0]

    def cheat(
        self, image: Float[Tensor, "3 height width"], size: int, generator: torch.Generator
    ) -> Float[Tensor, "3 size size"]:
        """Cut an image and spoil it in a random way of ``CHEATS``, as a call does; the result counts as generated."""
        with _drawing_from(generator):
            images = self._cut(image, size)
        spoil = list(CHEATS.values())[int(torch.randint(len(CHEATS), (), generator=generator))]
        return spoil(images, generator)[0]

    def _cut(self, image: Tensor, size: int) -> Tensor:
        if torch.rand(()) < self.crop:
            how: dict[str, Any] = {"interpolation": v2.InterpolationMode.BICUBIC, "antialias": True}
            cut = v2.RandomResizedCrop(size, self.crop_area, self.aspect, **how)(image[None]).clamp(0, 1)
        else:
            cut = center_square(image[None], size)
        return v2.RandomHorizontalFlip(self.flip)(cut)

    def _rescaled(self, images: Tensor) -> Tensor:
        size = images.shape[-1]
        small = max(round(size * float(torch.empty(()).uniform_(*self.rescale_factor))), 1)
        return resize(resize(images, small), size)

    def _as_jpeg(self, images: Tensor) -> Tensor:
        low, high = self.jpeg_quality
        return jpeg_round_trip(images, int(torch.randint(low, high + 1, ())))


@contextmanager
def _drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let torchvision's transforms, which draw from torch's global generator alone, follow this one inside."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
