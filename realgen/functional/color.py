"""Brightness and the colour statistics of an image."""

import torch
from jaxtyping import Float
from torch import Tensor

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Weights of gamma-coded red, green and blue in luma (ITU-R BT.601, as in JPEG)."""


def luma(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch height width"]:
    """Return the perceived brightness in [0, 1], Y' = 0.299 R' + 0.587 G' + 0.114 B' (ITU-R BT.601), of sRGB images."""
    red, green, blue = images.unbind(1)
    return LUMA_WEIGHTS[0] * red + LUMA_WEIGHTS[1] * green + LUMA_WEIGHTS[2] * blue


def color_statistics(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 6"]:
    """Compute mean and standard deviation (population) over the pixels of L*, a* and b*, in CIELAB units.

    The six numbers, three means first, that carry the look of an image in Reinhard et al., "Color Transfer between
    Images" (IEEE Computer Graphics and Applications 21(5), 2001); there in the space l-alpha-beta, here in CIELAB,
    whose unit is known: 2.3 are just noticeable.
    """
    from skimage.color import rgb2lab  # sRGB under D65; half a second to import

    pixels = torch.from_numpy(rgb2lab(images.cpu().numpy(), channel_axis=1)).flatten(2)
    return torch.cat([pixels.mean(dim=2), pixels.std(dim=2, correction=0)], dim=1).to(images)
