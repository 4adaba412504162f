"""Realism: the probability, by a frozen detector, that an image is real."""

from jaxtyping import Float
from torch import Tensor

from realgen.detectors.base import Detector, FrozenNetwork
from realgen.rewards.base import Reward
from realgen.types import Samples


class Realism(Reward):
    """1 - p_fake of one detector, in [0, 1] (RealGen, arXiv:2512.00473).

    Args:
        detector: Scores the images; never trained.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return the realism of each row [B]; NaN for images with NaN."""
        return 1 - self.detector(samples.images)

    @property
    def networks(self) -> list[FrozenNetwork]:
        """The detector."""
        return [self.detector]
