"""Kernel inception distance: torchmetrics as reference, and its behaviour on photographs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.image.kid import KernelInceptionDistance

from realgen.metrics import KID


def kid(encoder, images, real) -> float:
    metric = KID(encoder)
    metric.update(images, prompts=[""] * len(images), real=real)
    return metric.compute().item()


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all extracted features")
def test_equals_torchmetrics_with_one_subset_of_everything(encoder, photographs):
    images, real = photographs[:20].flip(1), photographs[20:40]
    reference = KernelInceptionDistance(feature=encoder.network, subsets=1, subset_size=20)
    reference.update(images, real=False)
    reference.update(real, real=True)
    assert kid(encoder, images, real) == pytest.approx(reference.compute()[0].item(), abs=1e-5)


def test_two_halves_of_the_photographs_are_near_blurred_ones_are_not(encoder, photographs):
    real, other = photographs[:48], photographs[48:]
    near = kid(encoder, other, real)
    assert abs(near) < 0.1 * kid(encoder, (other * 1.8).clamp(max=1), real)
    assert kid(encoder, F.avg_pool2d(other, 5, 1, 2).square(), real) > abs(near)


def test_photographs_may_come_apart_from_images(encoder, photographs):
    """Three draws of the same prompts, photographs with the first one only."""
    metric = KID(encoder)
    draws = photographs[:30].split(10)
    for index, draw in enumerate(draws):
        metric.update(draw, prompts=[""] * 10, real=photographs[30:40] if index == 0 else None)
    assert len(torch.cat(metric.generated)) == 30
    assert len(torch.cat(metric.real)) == 10
    assert metric.compute().isfinite()
