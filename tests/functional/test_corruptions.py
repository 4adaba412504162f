"""What is harmless leaves an image recognisable; each cheat does what it says, to each image on its own."""

import pytest
import torch
from torch.nn import functional as F

from realgen.functional.corruptions import (
    CHEATS,
    COLOURS,
    HARMLESS,
    blots,
    blur,
    crop,
    flat,
    grain,
    grid,
    half_size,
    noise,
    over_contrast,
    soft,
    squeeze,
    uniform,
)
from realgen.functional.images import jpeg_round_trip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(rows=3, height=64, width=64):
    coarse = torch.rand(rows, 3, 8, 8, generator=seeded(9)) * 0.6 + 0.2
    return F.interpolate(coarse, size=(height, width), mode="bilinear")


def grey(rows=4, value=0.5):
    return torch.full((rows, 3, 64, 64), value)


def soft_pictures(rows=4, low=0.3, high=0.7):
    """Soft random images that no change of contrast below 2.5 clips."""
    coarse = torch.rand(rows, 3, 16, 16, generator=seeded(9)) * (high - low) + low
    return F.interpolate(coarse, size=64, mode="bilinear")


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (80, 48)])
@pytest.mark.parametrize("name", [*HARMLESS, *COLOURS, *CHEATS])
def test_size_range_and_determinism(name, size):
    change = (HARMLESS | COLOURS | CHEATS)[name]
    images = pictures(2, *size)
    before = images.clone()
    first, again, other = (change(images, seeded(seed)) for seed in (2, 2, 3))
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert name not in CHEATS or not torch.equal(first, other)
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


def test_all_ways_to_cheat_are_known():
    assert set(CHEATS) == {"blur", "noise", "flat", "grid", "over_contrast", "blots"}


def test_uniform_draws_one_number_per_image():
    numbers = uniform(grey(500), 2.0, 3.0, seeded())
    assert numbers.shape == (500, 1, 1, 1)
    assert len(numbers.unique()) > 490
    assert 2.0 <= numbers.min() < 2.05
    assert 2.95 < numbers.max() <= 3.0


def test_blur_spreads_a_point_by_its_sigma():
    point = torch.zeros(1, 3, 65, 65)
    point[:, :, 32, 32] = 1.0
    offsets = torch.arange(65) - 32.0
    for seed in range(5):
        line = blur(point, seeded(seed))[0, 0].sum(0)
        assert line.sum() == pytest.approx(1.0, abs=1e-5)
        sigma = (line * offsets**2).sum().sqrt()
        # the kernel of 11 pixels cuts the tails, which takes 10 % off the widest
        assert 1.4 < sigma < 2.4


def test_noise_has_the_deviation_it_says():
    deviation = (noise(grey(64), seeded()) - 0.5).std((1, 2, 3))
    assert 0.095 < deviation.min() < 0.12
    assert 0.18 < deviation.max() < 0.205


def test_flat_keeps_colour_and_loses_contrast():
    images = soft_pictures(64)
    result = flat(images, seeded())
    assert torch.allclose(result.mean((2, 3)), images.mean((2, 3)), atol=1e-5)
    left = result.std((1, 2, 3)) / images.std((1, 2, 3))
    spread = (result - result.mean((2, 3), keepdim=True)).std((1, 2, 3))
    full = (images - images.mean((2, 3), keepdim=True)).std((1, 2, 3))
    assert (spread / full).max() <= 0.25 + 1e-4
    assert (spread / full).min() < 0.05
    assert left.max() < 1


def test_grid_lies_every_4_or_8_pixels():
    periods = set()
    for seed in range(12):
        result = grid(grey(2), seeded(seed))
        row = result[0, 0, 1]  # between two horizontal lines
        lines = (row > row.median()).nonzero().flatten()
        period = int(lines.diff().unique().item())
        assert lines[0] == 0
        assert torch.equal(result[0, 0], result[0, 0].T)
        assert torch.equal(result[:, 0], result[:, 2])
        height = row.max() - row.min()
        assert 0.06 - 1e-5 <= height <= 0.2 + 1e-5
        assert result.mean((1, 2, 3)) == pytest.approx([0.5, 0.5], abs=1e-5)
        periods.add(period)
    assert periods == {4, 8}


def test_over_contrast_multiplies_the_distance_from_the_mean():
    images = soft_pictures(32, 0.45, 0.55)  # 0.05 x 4 stays inside [0, 1]
    middle = images.mean((1, 2, 3), keepdim=True)
    factor = (over_contrast(images, seeded()) - middle).std((1, 2, 3)) / (images - middle).std((1, 2, 3))
    assert 2.0 - 1e-3 <= factor.min() < 2.3
    assert 3.7 < factor.max() <= 4.0 + 1e-3


def test_blots_have_no_picture_left_and_are_soft():
    first, second = blots(grey(4, 0.0), seeded()), blots(soft_pictures(4), seeded())
    assert torch.equal(first, second)
    assert first.diff(dim=-1).abs().mean() < 0.1 * first.std()
    assert first.std() > 0.2


def test_colours_do_what_they_say():
    images = soft_pictures()
    assert (COLOURS["grey"](images, seeded()).std(1) == 0).all()
    torch.testing.assert_close(COLOURS["dark"](images, seeded()), 0.6 * images)
    pale, spread = COLOURS["pale"](images, seeded()), images.flatten(1).std(1)
    torch.testing.assert_close(pale.flatten(1).std(1) / spread, torch.full((4,), 0.6), atol=0.02, rtol=0)
    assert (COLOURS["saturated"](images, seeded()).std(1).mean() / images.std(1).mean()) > 1.3
