"""What is harmless leaves a picture recognisable; what cheats is tested with the nano detectors' augmentation."""

import pytest
import torch
from torch.nn import functional as F

from realgen.functional.corruptions import CHEATS, HARMLESS, crop, grain, grid, half_size, soft, squeeze
from realgen.functional.images import jpeg_round_trip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(rows=3, height=64, width=64):
    coarse = torch.rand(rows, 3, 8, 8, generator=seeded(9)) * 0.6 + 0.2
    return F.interpolate(coarse, size=(height, width), mode="bilinear")


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (80, 48)])
@pytest.mark.parametrize("name", [*HARMLESS, *CHEATS])
def test_size_range_and_determinism(name, size):
    change = (HARMLESS | CHEATS)[name]
    images = pictures(2, *size)
    before = images.clone()
    first, again = change(images, seeded(2)), change(images, seeded(2))
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert torch.equal(images, before)
    assert not torch.equal(first, images)


@pytest.mark.parametrize("name", sorted(set(HARMLESS) - {"crop", "squeeze"}))
def test_what_is_harmless_and_does_not_move_pixels_changes_little(name):
    images = pictures()
    assert (HARMLESS[name](images, seeded()) - images).abs().mean() < 0.03


def test_the_middle_is_kept_by_crop_and_squeeze():
    ramp = ((torch.arange(60) + 0.5) / 60)[:, None].expand(60, 60).expand(1, 3, 60, 60)  # rises from top to bottom
    for change, share in ((crop, 48 / 60), (squeeze, 46 / 60)):  # 60 // 8 = 7 rows go at each end
        column = change(ramp, seeded())[0, 0, :, 30]
        assert column[15:45].mean() == pytest.approx(0.5, abs=1e-3)
        assert (column[45] - column[15]) / (ramp[0, 0, 45, 0] - ramp[0, 0, 15, 0]) == pytest.approx(share, abs=1e-2)
    assert torch.allclose(squeeze(ramp.mT, seeded()), ramp.mT, atol=1e-5)  # no column goes


def test_grain_has_its_deviation():
    difference = grain(torch.full((8, 3, 32, 32), 0.5), seeded()) - 0.5
    assert difference.std() == pytest.approx(0.02, rel=0.03)


def test_soft_blurs_by_one_percent_of_the_shorter_side():
    point = torch.zeros(1, 3, 201, 301)
    point[:, :, 100, 150] = 1.0
    line = soft(point, seeded())[0, 0].sum(0)
    assert (line * (torch.arange(301) - 150.0) ** 2).sum().sqrt() == pytest.approx(2.01, rel=0.03)


def test_half_size_loses_the_finest_stripes_only():
    x = torch.arange(64)
    fine, coarse = ((x // width % 2).float().expand(1, 3, 64, 64) for width in (1, 8))
    assert half_size(fine, seeded())[..., 16:48].std() < 0.05
    assert half_size(coarse, seeded()).std() > 0.9 * coarse.std()


def test_jpeg_is_the_round_trip():
    images = pictures()
    for quality in (90, 75, 50):
        assert torch.equal(HARMLESS[f"jpeg_{quality}"](images, seeded()), jpeg_round_trip(images, quality))


def test_the_grid_fills_a_picture_higher_than_wide():
    result = grid(torch.full((1, 3, 80, 48), 0.5), seeded())[0, 0]
    rows = (result[:, 1] > result[1, 1]).nonzero().flatten()
    assert rows[0] == 0
    assert rows[-1] >= 72
