"""Spectrum distance and grid energy: what they see and what they leave to the other."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from realgen.functional.spectrum import POWER_FLOOR
from realgen.metrics import GridEnergy, SpectrumDistance


def measure(metric, images, real) -> float:
    metric.update(images, prompts=[""] * len(images), real=real)
    return metric.compute().item()


def with_grid(images, strength: float, period: int = 8) -> torch.Tensor:
    lines = (torch.arange(images.shape[-1]) % period == 0).float()
    return (images + strength * torch.maximum(lines[:, None], lines[None, :])).clamp(0, 1)


def test_flat_against_white_noise_in_closed_form():
    """Noise of standard deviation 0.1 lies at -20 dB in every ring, a flat image at the floor."""
    noise = 0.5 + 0.1 * torch.randn(64, 1, 64, 64, generator=torch.Generator().manual_seed(0)).clamp(-4.9, 4.9)
    value = measure(SpectrumDistance(num_rings=8), torch.full((64, 3, 64, 64), 0.5), noise.expand(-1, 3, -1, -1))
    assert value == pytest.approx(-20 - 10 * math.log10(POWER_FLOOR), abs=0.2)


def test_half_the_contrast_is_six_decibels_everywhere(photographs):
    real = photographs[photographs.std(dim=(1, 2, 3)) > 0.1]  # far above the floor in every ring
    value = measure(SpectrumDistance(num_rings=8), real / 2, real)
    assert value == pytest.approx(20 * math.log10(2), abs=0.2)


@pytest.mark.parametrize("metric", [SpectrumDistance(), GridEnergy()], ids=["spectrum", "grid"])
def test_identical_sets_in_another_order(metric, photographs):
    assert measure(metric.clone(), photographs[:24].flip(0), photographs[:24]) == pytest.approx(0, abs=1e-4)


def test_waxy_and_noisy_are_far_from_photographs(photographs):
    real, other = photographs[:48], photographs[48:]
    floor = measure(SpectrumDistance(), other, real)
    waxy = measure(SpectrumDistance(), F.avg_pool2d(other, 3, 1, 1), real)
    waxier = measure(SpectrumDistance(), F.avg_pool2d(other, 5, 1, 2), real)
    noise = 0.05 * torch.randn(other.shape, generator=torch.Generator().manual_seed(0))
    noisy = measure(SpectrumDistance(), (other + noise).clamp(0, 1), real)
    assert 3 * floor < waxy < waxier
    assert noisy > 3 * floor


def test_grid_is_seen_at_its_period(photographs):
    real, other = photographs[:48], photographs[48:]
    floor = measure(GridEnergy(), other, real)
    faint, strong = (measure(GridEnergy(), with_grid(other, strength), real) for strength in (0.04, 0.15))
    assert floor < 1
    assert floor + 1 < faint < strong
    assert measure(GridEnergy(period=7), with_grid(other, 0.15), real) < 1


def test_grid_energy_ignores_blur(photographs):
    real, other = photographs[:48], photographs[48:]
    assert measure(GridEnergy(), F.avg_pool2d(other, 3, 1, 1), real) < 2


def test_upsampling_by_repetition_is_a_fault_too(photographs):
    real, other = photographs[:48], photographs[48:]
    blocky = F.interpolate(F.avg_pool2d(other, 2), scale_factor=2)
    assert measure(GridEnergy(period=2), blocky, real) > 10 * measure(GridEnergy(period=2), other, real)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SpectrumDistance(num_rings=0), "num_rings must be at least 1, got 0"),
        (lambda: GridEnergy(period=1), "period must be at least 2 pixels, got 1"),
    ],
)
def test_impossible_numbers(build, message):
    with pytest.raises(ValueError, match=message):
        build()
