"""Logistic regression: a linear head on frozen features, and Platt's calibration of its logits."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

Calibration = Literal["platt", "temperature", "none"]
MAX_STEPS = 1000
GRADIENT_TOLERANCE = 1e-7


class LogisticHead(NamedTuple):
    """p = sigmoid(features @ weight + bias)."""

    weight: Float[Tensor, " features"]
    bias: Float[Tensor, ""]


def fit_logistic(features: Float[Tensor, "rows features"], labels: Bool[Tensor, " rows"], *, l2: float) -> LogisticHead:
    """Fit a logistic regression in which both classes weigh the same, however many rows each has.

    Minimises mean_classes mean_rows BCE + l2 / 2 |w|^2 by scikit-learn's L-BFGS over all rows [N, D], on the CPU, in
    float64; the bias is not penalised. The penalty, above 0, keeps the weights of separable classes finite. Features
    are standardised inside, so that ``l2`` means the same for every backbone; the returned head takes plain ones.
    Labels are True for the class whose probability is wanted.

    Raises:
        ValueError: If ``l2`` is not above 0, or one class has no row.
    """
    if l2 <= 0:
        raise ValueError(f"l2 must be above 0, got {l2}.")
    mean, std = features.mean(0), features.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    weight, bias = _minimise((features - mean) / std, labels.to(features), l2=l2, with_bias=True)
    return LogisticHead(weight / std, bias - (weight / std) @ mean)


def fit_platt(
    logits: Float[Tensor, " rows"], labels: Bool[Tensor, " rows"], *, with_shift: bool = True
) -> tuple[float, float]:
    """Return the scale, above 0, and the shift that calibrate logits: p = sigmoid(scale * logit + shift).

    They are fitted on rows that the logits were not fitted on (Platt 1999, "Probabilistic outputs for SVMs").
    The targets are Platt's, (N1 + 1) / (N1 + 2) and 1 / (N0 + 2) for N1 and N0 rows of each class, so that rows which
    the logits tell apart without error do not make every probability 0 or 1. Both classes weigh the same. Labels are
    True for the class whose probability is wanted. Without shift the temperature alone is fitted (Guo et al.,
    arXiv:1706.04599, section 4.2).

    Raises:
        ValueError: If one class has no row, or the logits are no better than chance.
    """
    positive, negative = int(labels.sum()), int((~labels).sum())
    targets = torch.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2)).double()
    spread = logits.double().std(correction=0).clamp(min=1e-12)
    weight, bias = _minimise((logits.double() / spread).unsqueeze(1), targets, l2=0.0, with_bias=with_shift)
    scale = float(weight / spread)
    if not scale > 0:
        raise ValueError(
            f"the logits are no better than chance on the {len(labels)} rows held out for calibration (scale "
            f"{scale:.3g}); the classes may be swapped, or not to be told apart by these features."
        )
    return scale, float(bias)


def _minimise(
    features: Float[Tensor, "rows features"], targets: Float[Tensor, " rows"], *, l2: float, with_bias: bool
) -> tuple[Float[Tensor, " features"], Float[Tensor, ""]]:
    """Return weight and bias of the class-balanced, penalised loss; targets above one half are the first class."""
    from sklearn.linear_model import LogisticRegression  # half a second to import

    first = targets > 0.5
    if bool(first.all()) or not bool(first.any()):
        raise ValueError(f"labels must have both classes, got {len(first)} rows of one.")
    row_weights = torch.where(first, 0.5 / first.sum(), 0.5 / (~first).sum())
    # A row whose target is t counts as two: one of the first class, weighing t, and one of the other, weighing 1 - t.
    weights = torch.cat([row_weights * targets, row_weights * (1 - targets)]).double()
    kept = weights > 0
    labels = torch.cat([torch.ones_like(first), torch.zeros_like(first)])[kept]
    inverse = 1 / l2 if l2 else np.inf
    model = LogisticRegression(C=inverse, fit_intercept=with_bias, tol=GRADIENT_TOLERANCE, max_iter=MAX_STEPS)
    model.fit(torch.cat([features, features])[kept].double().numpy(), labels.numpy(), weights[kept].numpy())
    weight, bias = torch.from_numpy(model.coef_[0]), torch.tensor(float(np.ravel(model.intercept_)[0]))
    return weight.to(features), bias.to(features)


class LabelledFeatures(NamedTuple):
    """Features of images of both classes."""

    features: Float[Tensor, "rows features"]
    generated: Bool[Tensor, " rows"]
    """[N] True where the image is a generated one."""


class FittedHead(NamedTuple):
    """A head before and after its calibration."""

    raw: LogisticHead
    calibration: tuple[float, float]
    """Scale and shift of its logits."""
    head: LogisticHead
    """``raw`` with the calibration in it."""


def fit_head(
    fit: LabelledFeatures, held_out: LabelledFeatures, *, l2: float = 1e-3, calibration: Calibration = "platt"
) -> FittedHead:
    """Fit a logistic regression, and calibrate its probabilities on images that it has not seen.

    ``l2`` is the penalty on the weights, for standardised features. ``platt`` fits scale and shift of the logits,
    ``temperature`` the scale alone, ``none`` neither. ValueError if a class is missing, or the features do not tell the
    held-out classes apart.
    """
    raw = fit_logistic(fit.features, fit.generated, l2=l2)
    scale, shift = 1.0, 0.0
    if calibration != "none":
        logits = held_out.features @ raw.weight + raw.bias
        scale, shift = fit_platt(logits, held_out.generated, with_shift=calibration == "platt")
    return FittedHead(raw, (scale, shift), LogisticHead(raw.weight * scale, raw.bias * scale + shift))
