"""Kernel inception distance to photographs."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from realgen.functional.distribution_distance import kernel_distance
from realgen.metrics.base import RealComparison
from realgen.metrics.encoder import Encoder


class KID(RealComparison):
    """Kernel inception distance between generated images and photographs (Binkowski et al., arXiv:1801.01401).

    Unbiased over all samples, so it needs no minimum of images and may be a little below zero. Values depend on the
    encoder and compare only with values of the same one; with Inception-v3 features they are those of the paper.
    ``torchmetrics.image.KernelInceptionDistance`` averages over subsets drawn from the global random generator, which
    would change what a resumed run draws; this one draws nothing.

    Args:
        encoder: One that no reward uses.
    """

    higher_is_better: bool = False

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature"]:
        """Features [B, D]."""
        return self.encoder.to(images.device)(images)

    def compare(
        self, generated: Float[Tensor, "generated feature"], real: Float[Tensor, "real feature"]
    ) -> Float[Tensor, ""]:
        """Unbiased squared maximum mean discrepancy."""
        return kernel_distance(generated, real)
