"""Distances of colour and contrast statistics to real images."""

from jaxtyping import Float
from torch import Tensor

from realgen.functional.color import color_statistics
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

    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch statistic"]:
        """Return six colour statistics per image."""
        return color_statistics(images)

    def compare(
        self, generated: Float[Tensor, "generated statistic"], real: Float[Tensor, "real statistic"]
    ) -> Float[Tensor, ""]:
        """Return the mean of the statistics' Wasserstein-1 distances."""
        from scipy.stats import wasserstein_distance  # half a second to import

        columns = zip(generated.T.numpy(), real.T.numpy(), strict=True)
        return generated.new_tensor([wasserstein_distance(*column) for column in columns]).mean()


class ContrastDistance(ColorDistance):
    """How far the contrast within images is from that of real images, in units of L*.

    Wasserstein-1 distance between the generated images' standard deviations of L* over their pixels and the real
    images': the one of ``ColorDistance``'s six statistics that a darker, flatter look changes, on its own.
    """

    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch statistic"]:
        """Return the standard deviation of L* of each image."""
        return color_statistics(images)[:, 3:4]
