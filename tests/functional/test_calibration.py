"""Calibration against scikit-learn, torchmetrics and hand arithmetic."""

import pytest
import torch
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error

from realgen.functional.calibration import expected_calibration_error, reliability


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(4)
    probabilities = torch.rand(400, generator=generator, dtype=torch.float64)
    labels = (torch.rand(400, generator=generator) < probabilities**2).long()
    return probabilities, labels


def test_by_hand():
    bins = reliability(torch.tensor([0.1, 0.4, 0.6, 1.0]), torch.tensor([0, 1, 1, 1]), bins=2)
    torch.testing.assert_close(bins.confidence, torch.tensor([0.25, 0.8]))
    torch.testing.assert_close(bins.frequency, torch.tensor([0.5, 1.0]))
    assert bins.number.tolist() == [2, 2]
    assert float(expected_calibration_error(bins)) == pytest.approx(0.5 * 0.25 + 0.5 * 0.2)


def test_a_prediction_on_an_edge_belongs_to_the_bin_above_and_one_to_the_last():
    bins = reliability(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0, 0, 1]), bins=2)
    assert bins.number.tolist() == [1, 2]


def test_empty_bins_are_nan_and_count_nothing():
    bins = reliability(torch.tensor([0.9, 0.9]), torch.tensor([1, 1]), bins=4)
    assert bins.confidence.isnan().tolist() == [True, True, True, False]
    assert float(expected_calibration_error(bins)) == pytest.approx(0.1)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_curve_is_scikit_learns(predictions, bins):
    probabilities, labels = predictions
    found = reliability(probabilities, labels, bins=bins)
    frequency, confidence = calibration_curve(labels.numpy(), probabilities.numpy(), n_bins=bins)
    kept = found.number > 0
    torch.testing.assert_close(found.frequency[kept], torch.from_numpy(frequency))
    torch.testing.assert_close(found.confidence[kept], torch.from_numpy(confidence))


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_error_is_torchmetrics(predictions, bins):
    probabilities, labels = predictions
    expected = binary_calibration_error(probabilities, labels, n_bins=bins, norm="l1")
    found = expected_calibration_error(reliability(probabilities, labels, bins=bins))
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    assert float(found) > 0.05  # the predictions are not calibrated


def test_weights_count_as_copies():
    probabilities, labels = torch.tensor([0.2, 0.9, 0.7]), torch.tensor([1, 1, 0])
    copies = torch.tensor([1, 3, 2])
    expected = reliability(probabilities.repeat_interleave(copies), labels.repeat_interleave(copies), bins=4)
    for found, each in zip(reliability(probabilities, labels, copies.float(), bins=4), expected, strict=True):
        torch.testing.assert_close(found, each, equal_nan=True)
