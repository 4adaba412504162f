"""Kernel inception distance to real images."""

from collections.abc import Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from realgen.functional.distribution_distance import kernel_distance, kernel_distances
from realgen.metrics.base import RealComparison
from realgen.metrics.encoder import EncoderMetric


class KID(EncoderMetric, RealComparison):
    """Kernel inception distance between generated and real images (Binkowski et al., arXiv:1801.01401).

    Unbiased over all samples, so it needs no minimum of images and may be a little below zero. Values depend on the
    encoder and compare only with values of the same one; with Inception-v3 features they are those of the paper.
    ``torchmetrics.image.KernelInceptionDistance`` averages over subsets drawn from the global random generator, which
    would change what a resumed run draws; this one draws nothing.

    Args:
        encoder: One that no reward uses.
    """

    higher_is_better: bool = False

    def compare(
        self, generated: Float[Tensor, "generated feature"], real: Float[Tensor, "real feature"]
    ) -> Float[Tensor, ""]:
        """Return the unbiased squared maximum mean discrepancy."""
        return kernel_distance(generated, real)

    def compute_each(self, keep: Mapping[str, Bool[Tensor, "groups rows"]]) -> Float[Tensor, " groups"]:
        """Compute from each choice of rows, with one pass over the kernel for all of them."""
        kept = (keep[state].double() for state in self.described)
        return kernel_distances(self.seen("generated"), self.seen("real"), *kept)
