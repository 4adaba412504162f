"""Whether a probability means what it says: reliability and calibration error."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Reliability(NamedTuple):
    """Predictions in bins of equal width over [0, 1], the data of a reliability diagram."""

    confidence: Float[Tensor, " bins"]
    """Mean predicted probability; NaN in an empty bin."""
    frequency: Float[Tensor, " bins"]
    """Share of positives; NaN in an empty bin."""
    number: Float[Tensor, " bins"]
    """Sum of the weights of the predictions in the bin."""


def reliability(
    probabilities: Float[Tensor, " rows"],
    labels: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
    *,
    bins: int = 15,
) -> Reliability:
    """Compare predicted probability of label 1 and frequency, bin by bin (DeGroot and Fienberg 1983).

    Bin b holds the predictions in [b / bins, (b + 1) / bins); the last one holds 1 as well. Predictions weigh 1 each by
    default.
    """
    index = (probabilities * bins).long().clamp(max=bins - 1)
    number = torch.zeros(bins, dtype=probabilities.dtype, device=probabilities.device)
    predicted, observed = number.clone(), number.clone()
    weights = torch.ones_like(probabilities) if weights is None else weights
    number.index_add_(0, index, weights)
    predicted.index_add_(0, index, weights * probabilities)
    observed.index_add_(0, index, weights * labels)
    return Reliability(predicted / number, observed / number, number)


def balanced_reliability(
    real: Float[Tensor, " real"], generated: Float[Tensor, " generated"], *, bins: int = 15
) -> Reliability:
    """Return p_fake's reliability as if both classes, not empty, were as many; ``number``, in shares, sums to 2."""
    classes = (real, generated)
    labels = torch.cat([torch.full_like(p, y) for y, p in enumerate(classes)]).long()
    weights = torch.cat([torch.full_like(p, 1 / len(p)) for p in classes])
    return reliability(torch.cat(classes), labels, weights, bins=bins)


def expected_calibration_error(bins: Reliability) -> Float[Tensor, ""]:
    """Return the mean gap between confidence and frequency, each bin weighted by its predictions; 0 = calibrated.

        ECE = sum_b n_b / N |confidence_b - frequency_b|

    Source: Naeini et al. 2015; Guo et al., arXiv:1706.04599, equation 3, there of the predicted class and here of the
    probability itself. It is biased upwards where bins hold few predictions, so compare it only at equal N and bins.
    """
    gaps = (bins.confidence - bins.frequency).abs().nan_to_num(nan=0.0)
    return (gaps * bins.number).sum() / bins.number.sum()
