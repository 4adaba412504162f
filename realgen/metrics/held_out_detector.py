"""Metrics of a detector that the policy is not trained against."""

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.detectors.base import Detector
from realgen.functional.distribution_distance import auroc
from realgen.metrics.base import ImageMetric, RealComparison


class MeanRealism(ImageMetric):
    """Mean of 1 - p_fake of the generated images, in [0, 1]; ``describe`` gives p_fake [B] of each."""

    higher_is_better: bool = True

    def compute(self) -> Float[Tensor, ""]:
        """Return the mean of 1 - p_fake; raise ValueError if there were no images."""
        return self.result(1 - self.seen("generated").mean())


class DetectorMetric(ImageMetric):
    """A metric of a detector's ``p_fake``.

    Args:
        detector: One that no reward uses; better of another architecture too.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Return ``p_fake`` [B]."""
        return self.detector.to(images.device)(images)


class DetectorScore(DetectorMetric, MeanRealism):
    """Mean realism 1 - p_fake of the generated images, in [0, 1].

    It depends on the detector's own threshold: 0.5 does not mean "as real as a real image". ``DetectorAUROC`` has no
    threshold.

    Args:
        detector: One that no reward uses; better of another architecture too.
    """


class JudgedReal(DetectorScore):
    """Share of the generated images that the detector takes for real ones: 1 - p_fake above 0.5.

    Args:
        detector: One that no reward uses, such as a vision-language model.
    """

    def compute(self) -> Float[Tensor, ""]:
        """Return the share, in [0, 1]; raise ValueError if there were no images."""
        p_fake = self.seen("generated")
        return self.result(torch.where(p_fake.isnan(), p_fake, (p_fake < 0.5).to(p_fake)).mean())


class DetectorAUROC(DetectorMetric, RealComparison):
    """How well a detector tells generated images from real ones: area under the ROC curve of p_fake.

    1 = every generated image looks more generated than every real one, 0.5 = the detector cannot tell. Below 0.5 it
    confuses the two kinds.

    Args:
        detector: One that no reward uses; better of another architecture too.
    """

    higher_is_better: bool = False

    def compare(self, generated: Float[Tensor, " generated"], real: Float[Tensor, " real"]) -> Float[Tensor, ""]:
        """Return the probability that a generated image has the larger p_fake."""
        return auroc(generated, real)
