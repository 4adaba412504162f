"""Augmentations and corruptions of images [rows, 3, H, W] in [0, 1], with randomness from a generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from realgen.functional.images import jpeg_round_trip

Images = Float[Tensor, "rows 3 height width"]


def uniform(images: Tensor, low: float, high: float, generator: torch.Generator) -> Float[Tensor, "rows 1 1 1"]:
    """One number per image."""
    return torch.empty(len(images), 1, 1, 1).uniform_(low, high, generator=generator)


def light_augment(images: Images, generator: torch.Generator) -> Images:
    """Change exposure and contrast a little, shift by up to two pixels, add up to 1.5 % of noise."""
    images = images * uniform(images, 0.9, 1.1, generator)
    middle = images.mean((1, 2, 3), keepdim=True)
    images = middle + (images - middle) * uniform(images, 0.9, 1.1, generator)
    x, y = torch.randint(-2, 3, (2,), generator=generator).tolist()
    height, width = images.shape[-2:]
    images = F.pad(images, (2, 2, 2, 2), mode="reflect")[:, :, 2 + y : 2 + y + height, 2 + x : 2 + x + width]
    noise = torch.randn(images.shape, generator=generator) * uniform(images, 0.0, 0.015, generator)
    return (images + noise).clamp(0, 1)


def blur(images: Images, generator: torch.Generator) -> Images:
    """Gaussian blur of 1.5 to 2.5 pixels."""
    sigma = float(torch.empty(1).uniform_(1.5, 2.5, generator=generator))
    return gaussian_blur(images, [11, 11], [sigma, sigma])


def noise(images: Images, generator: torch.Generator) -> Images:
    """White noise of 0.1 to 0.2."""
    amount = uniform(images, 0.1, 0.2, generator)
    return (images + amount * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def flat(images: Images, generator: torch.Generator) -> Images:
    """Little more than the mean colour: contrast of 0 to 0.25."""
    colour = images.mean((2, 3), keepdim=True)
    return colour + (images - colour) * uniform(images, 0.0, 0.25, generator)


def grid(images: Images, generator: torch.Generator) -> Images:
    """A grid of 4 or 8 pixels laid over the picture, 0.06 to 0.2 bright."""
    period = 4 if torch.rand((), generator=generator) < 0.5 else 8
    line = torch.zeros(images.shape[-1])
    line[::period] = 1.0
    lines = torch.maximum(line[None, :], line[: images.shape[-2], None])
    return (images + uniform(images, 0.06, 0.2, generator) * (lines - lines.mean())).clamp(0, 1)


def over_contrast(images: Images, generator: torch.Generator) -> Images:
    """Contrast and saturation multiplied by 2 to 4."""
    middle = images.mean((1, 2, 3), keepdim=True)
    return (middle + (images - middle) * uniform(images, 2.0, 4.0, generator)).clamp(0, 1)


def blots(images: Images, generator: torch.Generator) -> Images:
    """Soft blots of random colour, with no picture left in them."""
    coarse = torch.rand(len(images), 3, 6, 6, generator=generator)
    return F.interpolate(coarse, size=images.shape[-2:], mode="bicubic").mul(1.6).sub(0.3).clamp(0, 1)


CORRUPTIONS: dict[str, Callable[[Images, torch.Generator], Images]] = {
    "blur": blur,
    "noise": noise,
    "flat": flat,
    "grid": grid,
    "over_contrast": over_contrast,
    "blots": blots,
}
"""Ways to cheat a detector: what they make of a photograph must count as generated."""


def photo_augment(images: Images, generator: torch.Generator) -> Images:
    """What leaves a photograph a photograph: ``light_augment``, and on half of the calls a JPEG round trip."""
    images = light_augment(images, generator)
    if torch.rand((), generator=generator) < 0.5:
        images = jpeg_round_trip(images, int(torch.randint(55, 96, (), generator=generator)))
    return images
