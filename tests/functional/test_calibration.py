"""Calibration against torchmetrics and hand arithmetic."""

import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from realgen.functional.calibration import expected_calibration_error


def test_by_hand():
    error = expected_calibration_error(torch.tensor([0.1, 0.4, 0.6, 1.0]), torch.tensor([0, 1, 1, 1]), bins=2)
    assert float(error) == pytest.approx(0.5 * (0.5 - 0.25) + 0.5 * (1 - 0.8))


def test_a_prediction_on_an_edge_belongs_to_the_bin_above_and_one_to_the_last():
    error = expected_calibration_error(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0, 0, 1]), bins=2)
    assert float(error) == pytest.approx((0 + abs(0.5 + 1.0 - 1)) / 3)


def test_weights_count_as_copies():
    probabilities, labels = torch.tensor([0.2, 0.9, 0.7]), torch.tensor([1, 1, 0])
    copies = torch.tensor([1, 3, 2])
    expected = expected_calibration_error(probabilities.repeat_interleave(copies), labels.repeat_interleave(copies))
    assert float(expected_calibration_error(probabilities, labels, copies.float())) == pytest.approx(float(expected))


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_error_is_torchmetrics(bins):
    generator = torch.Generator().manual_seed(4)
    probabilities = torch.rand(400, generator=generator, dtype=torch.float64)
    labels = (torch.rand(400, generator=generator) < probabilities**2).long()
    expected = binary_calibration_error(probabilities, labels, n_bins=bins, norm="l1")
    found = expected_calibration_error(probabilities, labels, bins=bins)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    assert float(found) > 0.05  # the predictions are not calibrated
