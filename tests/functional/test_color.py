"""CIELAB and colour statistics against scikit-image and hand arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import color

from realgen.functional.color import color_statistics, luma, srgb_to_lab


def test_lab_equals_skimage():
    rng = np.random.default_rng(0)
    pixels = rng.random((5, 7, 3))
    pixels[0, :3] = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.04, 0.001, 0.02]]  # both sides of both knees
    lab = srgb_to_lab(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(lab, color.rgb2lab(pixels), atol=0.01)  # scikit-image rounds the white point


def test_grey_has_no_color():
    grey = torch.rand(2, 1, 4, 4, dtype=torch.float64).expand(2, 3, 4, 4)
    assert srgb_to_lab(grey)[:, 1:].abs().max() < 1e-9


def test_statistics_by_hand():
    image = torch.zeros(1, 3, 1, 4, dtype=torch.float64)
    image[..., 2:] = 1  # half black, half white: L* is 0, 0, 100, 100
    expected = torch.tensor([[50.0, 0, 0, 50, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(color_statistics(image), expected, atol=1e-9, rtol=0)


def test_luma_by_hand():
    image = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    assert luma(image).item() == pytest.approx(0.2 * 0.299 + 0.4 * 0.587 + 0.6 * 0.114)


def test_nan_stays_in_its_image():
    images = torch.rand(2, 3, 4, 4)
    images[0, 0, 0, 0] = torch.nan
    statistics = color_statistics(images)
    assert statistics[0].isnan().any()
    assert not statistics[1].isnan().any()
