import numpy as np
import pytest
import torch
from torch.nn import functional as F

from realgen.functional.logistic_regression import fit_logistic, fit_platt


@pytest.fixture
def rows():
    """300 rows of 5 features on very different scales, one of them constant; a third of the rows are True."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3 == 0
    features = torch.randn(300, 5, generator=generator, dtype=torch.float64)
    features[:, 0] += labels * 1.5
    features[:, 3] -= labels * 0.5
    features = features * torch.tensor([1.0, 100.0, 0.01, 5.0, 0.0]) + torch.tensor([0.0, 7.0, 0.0, -3.0, 2.0])
    return features, labels


@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_the_balanced_penalised_loss_has_no_slope_at_the_head(rows, l2):
    features, labels = rows
    head = fit_logistic(features, labels, l2=l2)
    std = features.std(0, correction=0)
    scaled = torch.where(std > 0, (features - features.mean(0)) / std, 0.0)
    weight = (head.weight * std).requires_grad_()  # what was penalised: the weights of standardised features
    bias = (head.bias + head.weight @ features.mean(0)).requires_grad_()
    losses = F.binary_cross_entropy_with_logits(scaled @ weight + bias, labels.double(), reduction="none")
    loss = (losses[labels].mean() + losses[~labels].mean()) / 2 + l2 / 2 * weight.square().sum()
    slope = torch.autograd.grad(loss, [weight, bias])
    assert max(float(part.abs().max()) for part in slope) < 1e-6
    assert head.weight[4] == 0


def test_in_single_precision_it_is_nearly_the_same(rows):
    features, labels = rows
    exact, single = (fit_logistic(part, labels, l2=1e-3) for part in (features, features.float()))
    assert single.weight.dtype == torch.float32
    torch.testing.assert_close(
        features.float() @ single.weight + single.bias,
        (features @ exact.weight + exact.bias).float(),
        atol=2e-3,
        rtol=0,
    )


def test_rows_of_the_larger_class_do_not_outvote_the_smaller(rows):
    features, labels = rows
    doubled = torch.cat([features, features[~labels]])
    head, again = (
        fit_logistic(features, labels, l2=1e-6),
        fit_logistic(doubled, torch.cat([labels, labels[~labels]]), l2=1e-6),
    )
    # Standardisation sees the rows, the loss does not: nearly the same answer, where plain regression moves by log 2.
    shift = (doubled @ again.weight + again.bias)[:300] - (features @ head.weight + head.bias)
    assert shift.abs().max() < 1e-3


def test_platt_undoes_a_known_distortion():
    generator = torch.Generator().manual_seed(1)
    truth = 1.5 * torch.randn(200_000, generator=generator, dtype=torch.float64)
    labels = torch.rand(len(truth), generator=generator) < truth.sigmoid()
    scale, shift = fit_platt((truth - 0.7) / 0.4, labels)  # truth = 0.4 logit + 0.7
    assert scale == pytest.approx(0.4, abs=0.01)
    assert shift == pytest.approx(0.7, abs=0.03)


def test_temperature_alone_has_no_shift():
    generator = torch.Generator().manual_seed(2)
    truth = 2 * torch.randn(100_000, generator=generator, dtype=torch.float64)
    labels = torch.rand(len(truth), generator=generator) < truth.sigmoid()
    scale, shift = fit_platt(truth * 3, labels, with_shift=False)
    assert scale == pytest.approx(1 / 3, abs=0.01)
    assert shift == 0


def test_separable_rows_stay_finite():
    # By hand: with one row of each class the targets are 2/3 and 1/3, so logits of +-1 must become +-log 2.
    scale, shift = fit_platt(torch.tensor([-1.0, 1.0]), torch.tensor([False, True]))
    assert scale == pytest.approx(np.log(2), abs=1e-5)
    assert shift == pytest.approx(0, abs=1e-6)


def test_logits_that_point_the_wrong_way_are_refused():
    logits = torch.tensor([2.0, 3.0, -2.0, -3.0])
    with pytest.raises(ValueError, match="no better than chance on the 4 rows"):
        fit_platt(logits, logits < 0)


def test_mistakes(rows):
    features, labels = rows
    with pytest.raises(ValueError, match="l2 must be above 0, got 0"):
        fit_logistic(features, labels, l2=0.0)
    for fit in (lambda one: fit_logistic(features, one, l2=1.0), lambda one: fit_platt(features[:, 0], one)):
        with pytest.raises(ValueError, match="labels must have both classes, got 300 rows of one"):
            fit(torch.ones(300, dtype=torch.bool))
