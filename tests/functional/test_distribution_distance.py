"""Distances of samples against scipy, scikit-learn, torchmetrics and naive loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.metrics import roc_auc_score
from torchmetrics.image.kid import poly_mmd

from realgen.functional import distribution_distance
from realgen.functional.distribution_distance import auroc, kernel_distance, within_group_distance


def sample(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, columns)))


def kernel_diagonal(x: torch.Tensor) -> torch.Tensor:
    """Mean of k(a, a): what the biased estimator counts, about, once too often per row."""
    return ((x.square().mean(dim=1) + 1) ** 3).mean()


def naive_kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The estimator as the paper writes it, pair by pair."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_kernel_distance_equals_double_loop(monkeypatch):
    monkeypatch.setattr(distribution_distance, "KERNEL_ROWS", 4)  # several blocks, the last one short
    x, y = sample(7, 5, 0), sample(9, 5, 1) + 0.5
    assert kernel_distance(x, y).item() == pytest.approx(naive_kernel_distance(x.numpy(), y.numpy()), rel=1e-12)


def test_kernel_distance_equals_torchmetrics_at_equal_sizes():
    x, y = sample(12, 6, 0), sample(12, 6, 1) * 1.5
    torch.testing.assert_close(kernel_distance(x, y), poly_mmd(x, y))


def test_kernel_distance_is_unbiased():
    """Mean over many draws of two small samples of one distribution is zero; the biased estimator's is not."""
    samples = sample(9 * 400, 3, 0).view(400, 9, 3)
    draws = torch.stack([kernel_distance(rows[:5], rows[5:]) for rows in samples])
    biased = draws + torch.stack([(kernel_diagonal(rows[:5]) / 5 + kernel_diagonal(rows[5:]) / 4) for rows in samples])
    error = draws.std() / 400**0.5
    assert draws.mean().abs() < 3 * error
    assert biased.mean() > 10 * error


@pytest.mark.parametrize(("n", "m"), [(1, 5), (5, 1)])
def test_kernel_distance_of_one_image(n, m):
    with pytest.raises(ValueError, match=f"at least 2 samples of each kind, got {n} generated and {m} real"):
        kernel_distance(sample(n, 3, 0), sample(m, 3, 1))


def test_auroc_equals_sklearn():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(2, 9, 40) / 10, rng.integers(0, 7, 25) / 10  # many ties
    expected = roc_auc_score(np.r_[np.ones(40), np.zeros(25)], np.r_[positive, negative])
    assert auroc(torch.from_numpy(positive), torch.from_numpy(negative)).item() == pytest.approx(expected, rel=1e-12)


def test_auroc_of_nan():
    assert auroc(torch.tensor([0.1, torch.nan]), torch.tensor([0.2])).isnan()
    assert auroc(torch.tensor([0.1]), torch.tensor([torch.nan, 0.2])).isnan()


def test_within_group_distance_equals_scipy():
    features = sample(9, 4, 0) + 0.3
    groups = torch.tensor([5, -2, 5, 5, -2, 8, 0, 0, 0])  # group 8 has one row
    by_group = [pdist(features[groups == g].numpy(), metric="cosine").mean() for g in (5, -2, 0)]
    assert within_group_distance(features, groups).item() == pytest.approx(np.mean(by_group), rel=1e-12)


def test_within_group_distance_without_pairs():
    with pytest.raises(ValueError, match="no group has two rows: 3 rows in 3 groups"):
        within_group_distance(sample(3, 2, 0), torch.arange(3))
