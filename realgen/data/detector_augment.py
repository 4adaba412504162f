"""How an image of any size becomes a training example of a detector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.functional.augment import center_square, chance, random_blur, random_crop, random_jpeg, random_rescale
from realgen.functional.corruptions import CHEATS


@dataclass(frozen=True)
class DetectorAugment:
    """Remove shortcuts from training images of both classes alike: crop, flip, rescale, blur, JPEG.

    Some images stay as in validation and use: a detector that never saw one whole and unchanged gets worse at them. The
    defaults suit detectors of 224 pixels and more. Smaller ones want milder blur and rescaling and fewer crops, because
    enlarging a crop takes away the finest detail.

    Raises:
        ValueError: If a number is out of its range.
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
        """Change one image of any size, in [0, 1], and make it square with ``size`` pixels a side.

        All randomness comes from the generator, which is on the CPU.
        """
        images = self._cut(image, size, generator)
        if chance(self.rescale, generator):
            images = random_rescale(images, factor=self.rescale_factor, generator=generator)
        if chance(self.blur, generator):
            images = random_blur(images, sigma=self.blur_sigma, generator=generator)
        if chance(self.jpeg, generator):
            images = random_jpeg(images, quality=self.jpeg_quality, generator=generator)
        return images[0]

    def cheat(
        self, image: Float[Tensor, "3 height width"], size: int, generator: torch.Generator
    ) -> Float[Tensor, "3 size size"]:
        """Cut one image and spoil it in a random way of ``CHEATS``; the result counts as generated.

        Image, size and generator are as for a call of this object.
        """
        images = self._cut(image, size, generator)
        spoil = list(CHEATS.values())[int(torch.randint(len(CHEATS), (), generator=generator))]
        return spoil(images, generator)[0]

    def _cut(self, image: Tensor, size: int, generator: torch.Generator) -> Tensor:
        if chance(self.crop, generator):
            images = random_crop(image[None], size, area=self.crop_area, aspect=self.aspect, generator=generator)
        else:
            images = center_square(image[None], size)
        return images.flip(-1) if chance(self.flip, generator) else images
