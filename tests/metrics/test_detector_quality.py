"""Measures of a detector against scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from realgen.metrics import DetectorQuality


def judged(real, fake, seed=0):
    """A detector's answers to so many images of each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.zeros(real), torch.ones(fake)]).long()
    return (torch.randn(real + fake, generator=generator) + labels).sigmoid(), labels


def quality(p_fake, labels, mask=None, batches=3):
    meter = DetectorQuality()
    mask = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
    for parts in zip(p_fake.chunk(batches), labels.chunk(batches), mask.chunk(batches), strict=True):
        meter.update(*parts)
    return meter.compute()


def test_balanced_classes_are_scikit_learns():
    p_fake, labels = judged(50, 50)
    found = quality(p_fake, labels)
    assert float(found.accuracy) == pytest.approx(balanced_accuracy_score(labels, p_fake > 0.5))
    assert float(found.auroc) == pytest.approx(roc_auc_score(labels, p_fake))
    assert float(found.brier) == pytest.approx(brier_score_loss(labels, p_fake))
    assert float(found.calibration_error) == pytest.approx(
        float(binary_calibration_error(p_fake, labels, n_bins=15, norm="l1")), abs=1e-6
    )
    assert float(found.real_accuracy) == pytest.approx(float((p_fake[:50] <= 0.5).float().mean()))
    assert float(found.fake_accuracy) == pytest.approx(float((p_fake[50:] > 0.5).float().mean()))


def test_the_rarer_class_counts_as_much():
    p_fake, labels = judged(20, 20)
    often = torch.cat([p_fake[:20].repeat(5), p_fake[20:]])
    many = torch.cat([labels[:20].repeat(5), labels[20:]])
    for one, other in zip(quality(p_fake, labels), quality(often, many), strict=True):
        assert float(one) == pytest.approx(float(other), abs=1e-6)


def test_rows_that_do_not_count_change_nothing():
    p_fake, labels = judged(20, 20)
    mask = torch.arange(40) % 3 != 0
    assert quality(p_fake, labels, mask) == quality(p_fake[mask], labels[mask])


def test_one_half_is_judged_real():
    found = quality(torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), batches=1)
    assert (float(found.real_accuracy), float(found.fake_accuracy)) == (1.0, 0.0)


def test_with_one_class_only_its_accuracy_is_known():
    found = quality(torch.tensor([0.9, 0.2]), torch.tensor([1, 1]), batches=1)
    assert float(found.accuracy) == float(found.fake_accuracy) == 0.5
    assert all(math.isnan(v) for v in (found.real_accuracy, found.auroc, found.calibration_error, found.brier))


def test_reset_forgets():
    meter = DetectorQuality()
    meter.update(torch.tensor([0.9, 0.1]), torch.tensor([0, 1]), torch.tensor([True, True]))
    assert float(meter.compute().accuracy) == 0.0
    meter.reset()
    meter.update(torch.tensor([0.1, 0.9]), torch.tensor([0, 1]), torch.tensor([True, True]))
    assert float(meter.compute().accuracy) == 1.0
