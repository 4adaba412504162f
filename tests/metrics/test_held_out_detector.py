"""Metrics of a detector, with p_fake = the brightness of the image."""

from __future__ import annotations

import pytest
import torch

from realgen.metrics import DetectorAUROC, DetectorScore, JudgedReal


def flat(*levels: float) -> torch.Tensor:
    """One grey image per level."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()


def test_score_is_mean_realism(detector):
    metric = DetectorScore(detector)
    metric.update(flat(0.2, 0.5), prompts=["a", "b"], real=flat(0.9, 0.9))
    metric.update(flat(0.8), prompts=["a"])
    assert metric.compute().item() == pytest.approx((0.8 + 0.5 + 0.2) / 3)


def test_judged_real_is_the_share_below_a_half(detector):
    metric = JudgedReal(detector)
    metric.update(flat(0.2, 0.5), prompts=["a", "b"])
    metric.update(flat(0.49, 0.9), prompts=["a", "b"])
    assert metric.compute().item() == pytest.approx(2 / 4)  # a half is not taken for a photograph


def test_auroc_by_hand(detector):
    metric = DetectorAUROC(detector)
    metric.update(flat(0.2, 0.6), prompts=["a", "b"], real=flat(0.1, 0.4))
    assert metric.compute().item() == pytest.approx(3 / 4)  # of four pairs only (0.2, 0.4) is the wrong way round


@pytest.mark.parametrize(("generated", "expected"), [(0.9, 1.0), (0.3, 0.5), (0.1, 0.0)])
def test_auroc_extremes(detector, generated, expected):
    metric = DetectorAUROC(detector)
    metric.update(flat(generated, generated), prompts=["a", "b"], real=flat(0.3, 0.3))
    assert metric.compute().item() == pytest.approx(expected)
