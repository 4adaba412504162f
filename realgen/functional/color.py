"""Colour spaces and the colour statistics of an image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Weights of gamma-coded red, green and blue in luma (ITU-R BT.601, as in JPEG)."""

SRGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""Linear sRGB to CIE XYZ under D65 (IEC 61966-2-1); its row sums are the white point."""


def luma(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch height width"]:
    """Return the perceived brightness in [0, 1], Y' = 0.299 R' + 0.587 G' + 0.114 B' (ITU-R BT.601), of sRGB images.

    Example:
        >>> luma(torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)).item()
        0.587...
    """
    red, green, blue = images.unbind(1)
    return LUMA_WEIGHTS[0] * red + LUMA_WEIGHTS[1] * green + LUMA_WEIGHTS[2] * blue


def srgb_to_lab(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Convert sRGB in [0, 1] to CIELAB under D65 (IEC 61966-2-1, then CIE 15:2004, section 8.2.1).

    L* is in 0..100, a* (green to red) and b* (blue to yellow) in about -110..110. Distances are about perceptual: 2.3
    units are just noticeable.

    Example:
        >>> srgb_to_lab(torch.ones(1, 3, 1, 1)).flatten().round(decimals=2).abs()
        tensor([100.,   0.,   0.])
    """
    linear = torch.where(images > 0.04045, ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, images / 12.92)
    red, green, blue = linear.unbind(1)
    relative = torch.stack([(r * red + g * green + b * blue) / (r + g + b) for r, g, b in SRGB_TO_XYZ], dim=1)
    knee = (6 / 29) ** 3
    root = torch.where(relative > knee, relative.clamp(min=knee) ** (1 / 3), relative / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def color_statistics(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 6"]:
    """Compute mean and standard deviation (population) over the pixels of L*, a* and b*, in CIELAB units.

    The six numbers, three means first, that carry the look of an image in Reinhard et al., "Color Transfer between
    Images" (IEEE Computer Graphics and Applications 21(5), 2001); there in the space l-alpha-beta, here in CIELAB,
    whose unit is known.

    Example:
        >>> color_statistics(torch.zeros(1, 3, 2, 2)).tolist()
        [[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    pixels = srgb_to_lab(images).flatten(2)
    return torch.cat([pixels.mean(dim=2), pixels.std(dim=2, correction=0)], dim=1)
