"""Brightness and colour statistics against hand arithmetic."""

from __future__ import annotations

import pytest
import torch

from realgen.functional.color import color_statistics, luma


def test_statistics_by_hand():
    image = torch.zeros(1, 3, 1, 4, dtype=torch.float64)
    image[..., 2:] = 1  # half black, half white: L* is 0, 0, 100, 100
    expected = torch.tensor([[50.0, 0, 0, 50, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(color_statistics(image), expected, atol=0.01, rtol=0)  # the white point is rounded


def test_luma_by_hand():
    image = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    assert luma(image).item() == pytest.approx(0.2 * 0.299 + 0.4 * 0.587 + 0.6 * 0.114)


def test_nan_stays_in_its_image():
    images = torch.rand(2, 3, 4, 4)
    images[0, 0, 0, 0] = torch.nan
    statistics = color_statistics(images)
    assert statistics[0].isnan().any()
    assert not statistics[1].isnan().any()
