"""Whether a probability means what it says."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def expected_calibration_error(
    probabilities: Float[Tensor, " rows"],
    labels: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
    *,
    bins: int = 15,
) -> Float[Tensor, ""]:
    """Return the mean gap between predicted probability and frequency, over bins of equal width.

        ECE = sum_b n_b / N |confidence_b - frequency_b| = sum_b |sum_{i in b} w_i (p_i - y_i)| / sum_i w_i

    Source: Naeini et al. 2015; Guo et al., arXiv:1706.04599, equation 3, there of the predicted class and here of the
    probability itself. Bin b holds the predictions in [b / bins, (b + 1) / bins), the last one 1 as well. It is biased
    upwards where bins hold few predictions, so compare it only at equal N and bins. By hand, as torchmetrics' has no
    weights.

    Args:
        probabilities: [N] predicted probability of label 1, in [0, 1]; at least one.
        labels: [N] 0 or 1.
        weights: [N] of the predictions; equal ones by default.
        bins: Number of bins, at least 1.

    Returns:
        In [0, 1]; 0 = calibrated.

    Example:
        >>> expected_calibration_error(torch.tensor([0.25, 0.25]), torch.tensor([0, 1]), bins=1)
        tensor(0.2500)
    """
    weights = torch.ones_like(probabilities) if weights is None else weights
    index = (probabilities * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=probabilities.dtype, device=probabilities.device)
    return gaps.index_add_(0, index, weights * (probabilities - labels)).abs().sum() / weights.sum()
