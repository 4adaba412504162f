"""Colour distance: closed forms on flat colours, scikit-image and scipy on photographs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from skimage import color

from realgen.functional.color import luma
from realgen.metrics import ColorDistance, ContrastDistance


def distance(images, real) -> float:
    metric = ColorDistance()
    metric.update(images, prompts=[""] * len(images), real=real)
    return metric.compute().item()


def saturated(images, factor: float) -> torch.Tensor:
    grey = luma(images)[:, None]
    return (grey + factor * (images - grey)).clamp(0, 1)


def test_black_against_white():
    """L* means differ by 100, the other five statistics not at all."""
    assert distance(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)) == pytest.approx(100 / 6, abs=0.005)


def test_equals_skimage_and_scipy(photographs):
    def statistics(images):
        lab = color.rgb2lab(images.permute(0, 2, 3, 1).double().numpy()).reshape(len(images), -1, 3)
        return np.concatenate([lab.mean(axis=1), lab.std(axis=1)], axis=1)

    x, y = statistics(photographs[:20]), statistics(photographs[20:40])
    expected = np.mean([stats.wasserstein_distance(x[:, k], y[:, k]) for k in range(6)])
    assert distance(photographs[:20], photographs[20:40]) == pytest.approx(expected, abs=0.01)


def test_identical_sets_in_another_order(photographs):
    assert distance(photographs[:24].flip(0), photographs[:24]) == pytest.approx(0, abs=1e-5)


def test_grows_with_what_a_person_would_call_worse(photographs):
    real, other = photographs[:48], photographs[48:]
    floor = distance(other, real)
    assert floor < distance(saturated(other, 1.5), real) < distance(saturated(other, 2.5), real)
    assert distance(saturated(other, 0), real) > 2 * floor  # black and white
    assert distance((other > 0.5).float(), real) > 4 * floor  # blots
    assert distance(other.mean(dim=(2, 3), keepdim=True).expand_as(other), real) > 2 * floor  # flat


def test_contrast_is_the_spread_of_lightness_alone(photographs):
    real, images = photographs[:20], 0.5 + 0.6 * (photographs[:20] - 0.5)

    def contrast(pictures):
        return color.rgb2lab(pictures.permute(0, 2, 3, 1).double().numpy())[..., 0].reshape(len(pictures), -1).std(1)

    metric = ContrastDistance()
    metric.update(images, prompts=[""] * 20, real=real)
    expected = stats.wasserstein_distance(contrast(images), contrast(real))
    assert metric.compute().item() == pytest.approx(expected, abs=0.01)
    assert expected > 4
    metric.reset()
    metric.update(saturated(real, 0.0), prompts=[""] * 20, real=real)
    assert metric.compute().item() < 1.5  # colour is not its business
