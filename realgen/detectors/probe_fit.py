"""A linear probe's head out of features: fitted, and calibrated on other images."""

from __future__ import annotations

from typing import Literal, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from realgen.functional.logistic_regression import LogisticHead, SigmoidCalibration, fit_logistic, fit_platt

Calibration = Literal["platt", "temperature", "none"]


class LabelledFeatures(NamedTuple):
    """Features of images of both classes."""

    features: Float[Tensor, "rows features"]
    """[N, D]."""
    generated: Bool[Tensor, " rows"]
    """[N] True where the image is a generated one."""


class FittedHead(NamedTuple):
    """A head before and after its calibration."""

    raw: LogisticHead
    calibration: SigmoidCalibration
    head: LogisticHead
    """``raw`` with the calibration in it."""


def fit_head(
    fit: LabelledFeatures, held_out: LabelledFeatures, *, l2: float = 1e-3, calibration: Calibration = "platt"
) -> FittedHead:
    """Fit a logistic regression, and calibrate its probabilities on images that it has not seen.

    ``l2`` is the penalty on the weights, for standardised features. ``platt`` fits scale and shift of the logits,
    ``temperature`` the scale alone, ``none`` neither.

    Raises:
        ValueError: If a class is missing, or the features do not tell the held-out classes apart.

    Example:
        >>> import torch
        >>> rows = LabelledFeatures(torch.tensor([[0.0], [1.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 1]).bool())
        >>> bool(fit_head(rows, rows).head.weight > 0)
        True
    """
    raw = fit_logistic(fit.features, fit.generated, l2=l2)
    scale = SigmoidCalibration(1.0, 0.0)
    if calibration != "none":
        logits = held_out.features @ raw.weight + raw.bias
        scale = fit_platt(logits, held_out.generated, with_shift=calibration == "platt")
    head = LogisticHead(raw.weight * scale.scale, raw.bias * scale.scale + scale.shift)
    return FittedHead(raw, scale, head)
