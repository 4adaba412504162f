"""Distance of colour statistics to real images."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from realgen.functional.color import color_statistics
from realgen.functional.distribution_distance import wasserstein_distance
from realgen.metrics.base import RealComparison


class ColorDistance(RealComparison):
    """How far brightness, contrast, cast and saturation are from those of real images, in CIELAB units.

    Each image has six statistics: mean and standard deviation over its pixels of L*, a* and b*. The distance is the
    mean over the six of the Wasserstein-1 distance between the generated images' values and the real images': by
    how much a statistic must be moved, on average. 0 = the same distributions; 2.3 is a just noticeable difference.
    It sees neither shapes nor which image has which colours. Two samples of the same distribution are not at 0: the
    distance between two halves of the real images is the floor to compare with.
    """

    higher_is_better: bool = False

    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 6"]:
        """Return six colour statistics per image."""
        return color_statistics(images)

    def compare(self, generated: Float[Tensor, "generated 6"], real: Float[Tensor, "real 6"]) -> Float[Tensor, ""]:
        """Return the mean of six Wasserstein-1 distances."""
        return wasserstein_distance(generated, real).mean()
