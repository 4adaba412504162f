"""Power spectra against numpy, and against waves whose spectrum is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from realgen.functional.spectrum import POWER_FLOOR, grid_excess, power_spectrum, radial_spectrum
from realgen.metrics import SpectrumDistance


def grey(pixels: torch.Tensor) -> torch.Tensor:
    """A grey image [1, 3, H, W] of one plane [H, W]."""
    return pixels.expand(1, 3, *pixels.shape)


def wave(size: int, cycles: float, amplitude: float = 0.25, *, axis: int = 1) -> torch.Tensor:
    """A cosine of ``cycles`` periods per image around 0.5."""
    line = amplitude * torch.cos(2 * math.pi * cycles * torch.arange(size, dtype=torch.float64) / size)
    plane = line.expand(size, size)
    return 0.5 + (plane if axis == 1 else plane.T)


@pytest.mark.parametrize("hann", [False, True])
def test_power_equals_numpy(hann):
    pixels = np.random.default_rng(0).random((6, 10))
    window = (
        np.outer(*(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n) for n in (6, 10))) if hann else np.ones((6, 10))
    )
    centred = pixels - (window * pixels).sum() / window.sum()
    expected = np.abs(np.fft.fft2(window * centred)) ** 2 / (window**2).sum()
    actual = power_spectrum(torch.from_numpy(pixels)[None], hann=hann)[0].numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_parseval():
    pixels = torch.rand(3, 8, 12, dtype=torch.float64)
    variance = pixels.var(dim=(1, 2), correction=0)
    torch.testing.assert_close(power_spectrum(pixels).mean(dim=(1, 2)), variance)


def test_wave_has_its_closed_form_power():
    power = power_spectrum(wave(16, 3)[None])[0]
    expected = torch.zeros(16, 16, dtype=torch.float64)
    expected[0, 3] = expected[0, 13] = (0.25 * 256 / 2) ** 2 / 256  # (amplitude * pixels / 2)^2 / pixels
    torch.testing.assert_close(power, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("cycles", [4, 9, 15])
@pytest.mark.parametrize("axis", [0, 1])
def test_wave_peaks_in_its_ring(cycles, axis):
    spectrum = radial_spectrum(grey(wave(32, cycles, axis=axis)), num_rings=16)
    assert int(spectrum.argmax()) + 1 == cycles


def test_rings_mean_the_same_in_oblong_images():
    line = torch.cos(2 * math.pi * 0.25 * torch.arange(64, dtype=torch.float64))
    spectrum = radial_spectrum(grey(0.5 + 0.25 * line.expand(32, 64)), num_rings=16)
    assert int(spectrum.argmax()) + 1 == 8  # 0.25 cycles per pixel is half of Nyquist


def test_white_noise_is_flat_at_its_variance():
    noise = 0.5 + 0.1 * torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    power = (10 ** (radial_spectrum(noise.expand(64, 3, 32, 32), num_rings=8) / 10)).mean(dim=0)
    torch.testing.assert_close(power, torch.full((8,), 0.01, dtype=torch.float64), rtol=0.1, atol=0)


def test_flat_image_is_at_the_floor():
    floor = torch.full((1, 4), 10 * math.log10(POWER_FLOOR))
    torch.testing.assert_close(radial_spectrum(torch.full((1, 3, 8, 8), 0.3), num_rings=4), floor, atol=1e-3, rtol=0)


def test_too_small_for_the_rings():
    with pytest.raises(ValueError, match=r"num_rings=8 needs images of at least 16 pixels, got 15x20"):
        radial_spectrum(torch.rand(1, 3, 15, 20), num_rings=8)


def test_white_noise_has_no_grid():
    noise = torch.rand(128, 1, 32, 32, generator=torch.Generator().manual_seed(0)).expand(128, 3, 32, 32)
    assert grid_excess(noise, period=8).mean().abs() < 0.3  # standard error: about 6 dB / sqrt(63 * 128)


@pytest.mark.parametrize("shift", [0, 3])
def test_grid_stands_out_wherever_it_lies(shift):
    noise = torch.rand(16, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    lines = (torch.arange(64) % 8 == shift).float()
    gridded = (noise * 0.8 + 0.2 * torch.maximum(lines[:, None], lines[None, :])).expand(16, 3, 64, 64)
    assert grid_excess(gridded, period=8).mean() > 3
    assert grid_excess(gridded, period=4).mean() > 3  # harmonics of the period 8
    assert grid_excess(gridded[..., :63, :63], period=7).mean() < 1


def test_checkerboard_by_hand():
    """Two pixels period: all power at (N/2, N/2), one of three lattice points; everything else at the floor."""
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    peak = 10 * math.log10(0.25 * 64 / POWER_FLOOR + 1)  # variance 1/4 times 64 pixels on one frequency
    assert grid_excess(grey(board.double()), period=2).item() == pytest.approx(peak / 3, abs=1e-6)


def test_too_small_for_the_period():
    with pytest.raises(ValueError, match=r"period=8 needs images of at least 24 pixels, got \[23, 64\]"):
        grid_excess(torch.rand(1, 3, 23, 64), period=8)


def test_decibel_distance_by_hand():
    generated, real = torch.tensor([[0.0, 2.0], [2.0, 4.0]]), torch.tensor([[-2.0, -4.0]])
    assert SpectrumDistance().compare(generated, real).item() == pytest.approx(math.sqrt((9 + 49) / 2))
