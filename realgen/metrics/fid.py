"""Fréchet inception distance to real images."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.metrics.base import RealComparison
from realgen.metrics.encoder import EncoderMetric


class FID(EncoderMetric, RealComparison):
    """Fréchet distance between Gaussians fitted to features of generated and of real images (arXiv:1706.08500).

    ``torchmetrics.image.FrechetInceptionDistance`` computes it, of an encoder's features instead of those of an
    Inception-v3 that has to be downloaded. Values depend on the encoder and compare only with values of the same one.
    The fewer the images, the larger it is, so compare it only at equal numbers, and prefer ``KID`` for few.

    Args:
        encoder: One that no reward uses.
    """

    higher_is_better: bool = False

    def compare(
        self, generated: Float[Tensor, "generated feature"], real: Float[Tensor, "real feature"]
    ) -> Float[Tensor, ""]:
        """Return the distance; raise ValueError if there are fewer than two images of a kind."""
        from torchmetrics.image.fid import FrechetInceptionDistance

        if min(len(generated), len(real)) < 2:
            raise ValueError(f"FID needs at least 2 images of each kind, got {len(generated)} and {len(real)} real.")
        if not bool(generated.isfinite().all() and real.isfinite().all()):
            return generated.new_tensor(torch.nan)  # LAPACK's eigenvalues of NaN may end the process
        network = nn.Identity()  # stands in for the metric's own, and takes features for images
        vars(network)["num_features"] = generated.shape[1]
        distance = FrechetInceptionDistance(feature=network)
        distance.update(generated, real=False)
        distance.update(real, real=True)
        return distance.compute()

    def without_each(self) -> Float[Tensor, " groups"]:
        """Return nothing: FID depends on the number of images, so the distance without some is another one."""
        return torch.empty(0, dtype=torch.float64)
