"""Random augmentations against a detector's shortcuts: differences of files instead of images.

Real images come as large, oblong, sharp JPEG files, generated ones as square lossless files. A detector that learns
this fails on a JPEG of a generated image. Applied to both classes alike, these changes remove the difference.

Images are [B, 3, H, W] in [0, 1], before and after; generators are on the CPU. Each function draws once per call, so
give it images that may share the draw: one, or one batch of a kind. The resizes are those of ``images.resize``, which
``torchvision.transforms`` matches only up to overshoot, and all numbers come from the given generator, which
torchvision's random transforms do not take.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from realgen.functional.images import jpeg_round_trip, resize

Interval = tuple[float, float]
"""Smallest and largest value of a uniform draw."""


def draw(interval: Interval, generator: torch.Generator) -> float:
    """Draw a uniform number from an interval.

    Example:
        >>> draw((2.0, 2.0), torch.Generator())
        2.0
    """
    low, high = interval
    return low + (high - low) * float(torch.rand((), generator=generator))


def chance(probability: float, generator: torch.Generator) -> bool:
    """Return True with a probability; always draws one number.

    Example:
        >>> chance(1.0, torch.Generator()), chance(0.0, torch.Generator())
        (True, False)
    """
    return float(torch.rand((), generator=generator)) < probability


def random_crop(
    images: Float[Tensor, "batch 3 height width"],
    size: int,
    *,
    area: Interval,
    aspect: Interval,
    generator: torch.Generator,
) -> Float[Tensor, "batch 3 size size"]:
    """Cut out a random box and resize it to a square, antialiased; against the shortcuts of size and aspect.

    The box takes a share of the image's area, ``area`` in (0, 1], and has a width over height, ``aspect`` above 0,
    drawn uniformly in its logarithm; it is clipped to the image's sides. Squares of other boxes are squeezed.

    Example:
        >>> generator = torch.Generator()
        >>> random_crop(torch.rand(1, 3, 40, 90), 32, area=(0.5, 1.0), aspect=(1.0, 1.0), generator=generator).shape
        torch.Size([1, 3, 32, 32])
    """
    height, width = images.shape[-2:]
    pixels = draw(area, generator) * height * width
    ratio = math.exp(draw((math.log(aspect[0]), math.log(aspect[1])), generator))
    box_width = min(max(round(math.sqrt(pixels * ratio)), 1), width)
    box_height = min(max(round(math.sqrt(pixels / ratio)), 1), height)
    left = round(draw((0.0, float(width - box_width)), generator))
    top = round(draw((0.0, float(height - box_height)), generator))
    return resize(images[..., top : top + box_height, left : left + box_width], size, mode="bicubic")


def center_square(images: Float[Tensor, "batch 3 height width"], size: int) -> Float[Tensor, "batch 3 size size"]:
    """Cut out the largest centred square and resize it, antialiased.

    Example:
        >>> center_square(torch.rand(1, 3, 40, 90), 32).shape
        torch.Size([1, 3, 32, 32])
    """
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(images[..., top : top + side, left : left + side], size, mode="bicubic")


def random_rescale(
    images: Float[Tensor, "batch 3 height width"], *, factor: Interval, generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Shrink images by a random factor, in (0, 1], and enlarge them again; against the shortcut of resampling history.

    Example:
        >>> random_rescale(torch.full((1, 3, 8, 8), 0.5), factor=(0.5, 1.0), generator=torch.Generator())[0, 0, 0, 0]
        tensor(0.5000)
    """
    height, width = images.shape[-2:]
    share = draw(factor, generator)
    small = (max(round(height * share), 1), max(round(width * share), 1))
    return resize(resize(images, small, mode="bicubic"), (height, width), mode="bicubic")


def random_blur(
    images: Float[Tensor, "batch 3 height width"], *, sigma: Interval, generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Blur with a Gaussian of ``sigma`` pixels, above 0; against the shortcut of sharpness.

    Height and width must be above 3 sigma.

    Example:
        >>> random_blur(torch.full((1, 3, 8, 8), 0.5), sigma=(0.5, 1.0), generator=torch.Generator())[0, 0, 0, 0]
        tensor(0.5000)
    """
    deviation = draw(sigma, generator)
    side = 2 * max(math.ceil(3 * deviation), 1) + 1
    return gaussian_blur(images, [side, side], [deviation, deviation])


def random_jpeg(
    images: Float[Tensor, "batch 3 height width"], *, quality: tuple[int, int], generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Write and read a JPEG file of random quality, 1 to 100; against the shortcut of the file format.

    Example:
        >>> random_jpeg(torch.zeros(1, 3, 8, 8), quality=(50, 95), generator=torch.Generator()).abs().max()
        tensor(0.)
    """
    low, high = quality
    return jpeg_round_trip(images, int(torch.randint(low, high + 1, (), generator=generator)))
