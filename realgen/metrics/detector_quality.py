"""How good a detector is on labelled images."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from realgen.functional.calibration import balanced_reliability, expected_calibration_error
from realgen.functional.distribution_distance import auroc


class Quality(NamedTuple):
    """Results of ``DetectorQuality``; NaN where a class that a number needs has no image."""

    accuracy: Tensor
    """Mean of the two below, so that 0.5 is chance whatever the share of the classes; or the only one there is."""
    real_accuracy: Tensor
    """Share of real images with p_fake <= 0.5."""
    fake_accuracy: Tensor
    """Share of generated images with p_fake > 0.5."""
    auroc: Tensor
    """Probability that a generated image has the larger p_fake."""
    calibration_error: Tensor
    """Expected calibration error of p_fake over 15 bins, each class weighing one half."""
    brier: Tensor
    """Brier score of p_fake, each class weighing one half."""


class DetectorQuality(Metric):
    """Accuracy, AUROC and calibration of a detector over all updates and ranks, computed in float64 on the CPU.

    A detector is trained on equally many images of each class, so calibration is measured with weights that make the
    classes equal.
    """

    full_state_update: bool = False
    p_fake: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("p_fake", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, p_fake: Float[Tensor, " rows"], labels: Int[Tensor, " rows"], mask: Bool[Tensor, " rows"]) -> None:
        """Add a detector's ``p_fake`` [B] in [0, 1] of labels 0 = real, 1 = generated; ``mask``: rows that count."""
        self.p_fake.append(p_fake.detach().float()[mask])
        self.labels.append(labels[mask])

    def compute(self) -> Quality:
        """Return all numbers."""
        parts = (dim_zero_cat(part) if len(part) else torch.empty(0) for part in (self.p_fake, self.labels))
        p_fake, labels = (part.cpu().double() for part in parts)
        real, fake = p_fake[labels == 0], p_fake[labels == 1]
        rates = torch.stack([(real <= 0.5).double().mean(), (fake > 0.5).double().mean()])
        found = {"accuracy": rates.nanmean(), "real_accuracy": rates[0], "fake_accuracy": rates[1]}
        if len(real) and len(fake):
            found["auroc"] = auroc(fake, real)
            found["calibration_error"] = expected_calibration_error(balanced_reliability(real, fake))
            found["brier"] = (real.square().mean() + (1 - fake).square().mean()) / 2  # squared error (Brier 1950)
        nan = torch.tensor(torch.nan)
        return Quality(*(found.get(name, nan).float().to(self.device) for name in Quality._fields))
