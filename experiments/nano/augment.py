"""Mild augmentation of images [rows, 3, H, W] in [0, 1]."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from realgen.functional.corruptions import Images, uniform
from realgen.functional.images import jpeg_round_trip


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


def photo_augment(images: Images, generator: torch.Generator) -> Images:
    """What leaves a photograph a photograph: ``light_augment``, and on half of the calls a JPEG round trip."""
    images = light_augment(images, generator)
    if torch.rand((), generator=generator) < 0.5:
        images = jpeg_round_trip(images, int(torch.randint(55, 96, (), generator=generator)))
    return images
