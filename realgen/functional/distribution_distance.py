"""Distances between two samples, and the spread of one.

AUROC is as short here as a call of scikit-learn with its conversions, and passes NaN on; torchmetrics' kernel distance
draws random subsets.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

KERNEL_ROWS = 2048
"""Rows of a kernel matrix that are held at once."""


def kernel_distance(
    generated: Float[Tensor, "generated feature"], real: Float[Tensor, "real feature"]
) -> Float[Tensor, ""]:
    """Compute the kernel inception distance: the unbiased squared maximum mean discrepancy under a cubic kernel.

        k(a, b) = (a . b / D + 1)^3
        KID = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

    Of features x [N, D] of generated images and y [M, D] of real ones. Zero in expectation for samples of one
    distribution, so a little below zero is possible. Source: Binkowski et al., "Demystifying MMD GANs"
    (arXiv:1801.01401), equation 4 and section 4. There the mean over random subsets is reported; here all samples are
    used once, so the result draws no random numbers. ValueError if a sample has fewer than two rows.
    """
    return kernel_distances(generated, real, generated.new_ones(1, len(generated)), real.new_ones(1, len(real)))[0]


def kernel_distances(
    generated: Float[Tensor, "generated feature"],
    real: Float[Tensor, "real feature"],
    keep_generated: Float[Tensor, "subsets generated"],
    keep_real: Float[Tensor, "subsets real"],
) -> Float[Tensor, " subsets"]:
    """Compute ``kernel_distance`` of subsets of rows, kept where 1 and not where 0, with one pass over the kernel.

    Raises:
        ValueError: If a subset has fewer than two rows of a kind.
    """
    rows, real_rows = keep_generated.sum(1), keep_real.sum(1)  # [subsets]
    n, m = int(rows.min()), int(real_rows.min())
    if n < 2 or m < 2:
        raise ValueError(f"the kernel distance needs at least 2 samples of each kind, got {n} generated and {m} real.")

    def kernel_sums(a: Tensor, b: Tensor, keep_a: Tensor, keep_b: Tensor) -> Tensor:
        blocks = zip(a.split(KERNEL_ROWS), keep_a.split(KERNEL_ROWS, dim=1), strict=True)
        return sum((keep @ (part @ b.T / a.shape[1] + 1) ** 3 * keep_b).sum(1) for part, keep in blocks)

    def without_itself(a: Tensor, keep: Tensor) -> Tensor:
        return kernel_sums(a, a, keep, keep) - keep @ (a.square().mean(dim=1) + 1) ** 3

    within = without_itself(generated, keep_generated) / (rows * (rows - 1))
    within_real = without_itself(real, keep_real) / (real_rows * (real_rows - 1))
    return within + within_real - 2 * kernel_sums(generated, real, keep_generated, keep_real) / (rows * real_rows)


def auroc(positive: Float[Tensor, " positive"], negative: Float[Tensor, " negative"]) -> Float[Tensor, ""]:
    """Return the probability that a positive scores above a negative, ties counted half (Mann and Whitney 1947).

    The area under the ROC curve in [0, 1]: 1 = perfectly separated, 0.5 = not at all. NaN if a score is NaN.
    """
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive) + torch.searchsorted(ordered, positive, right=True)
    share = below.to(positive.dtype).mean() / (2 * len(negative))
    return torch.where(positive.isnan().any() | negative.isnan().any(), torch.nan, share)


def within_group_distance(features: Float[Tensor, "rows feature"], groups: Int[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Return the mean cosine distance, in [0, 2], of two different rows of the same group, each group counting once.

        d(group of n) = 1 - (|sum_i u_i|^2 - sum_i |u_i|^2) / (n (n - 1)),    u_i = f_i / |f_i|

    Groups are any integers; those of one row are left out. 0 when all rows of each group point the same way.

    Raises:
        ValueError: If no group has two rows.
    """
    units = F.normalize(features, dim=1)
    _, index, sizes = groups.unique(return_inverse=True, return_counts=True)
    if not bool((sizes > 1).any()):
        raise ValueError(f"no group has two rows: {len(groups)} rows in {len(sizes)} groups.")
    sums = units.new_zeros(len(sizes), units.shape[1]).index_add_(0, index, units)
    itself = units.new_zeros(len(sizes)).index_add_(0, index, units.square().sum(dim=1))
    sums, itself, sizes = sums[sizes > 1], itself[sizes > 1], sizes[sizes > 1]
    return (1 - (sums.square().sum(dim=1) - itself) / (sizes * (sizes - 1))).mean()
