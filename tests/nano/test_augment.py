"""Each corruption does what it says, to each picture on its own, and is a function of the generator."""

import pytest
import torch

from experiments.nano.augment import (
    CORRUPTIONS,
    blots,
    blur,
    flat,
    grid,
    light_augment,
    noise,
    over_contrast,
    photo_augment,
    uniform,
)
from realgen.functional.images import jpeg_round_trip

ALL = {**CORRUPTIONS, "light_augment": light_augment, "photo_augment": photo_augment}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def grey(rows=4, value=0.5):
    return torch.full((rows, 3, 64, 64), value)


def pictures(rows=4, low=0.3, high=0.7):
    """Soft random pictures that no change of contrast below 2.5 clips."""
    coarse = torch.rand(rows, 3, 16, 16, generator=seeded(9)) * (high - low) + low
    return torch.nn.functional.interpolate(coarse, size=64, mode="bilinear")


@pytest.mark.parametrize("name", ALL)
def test_shape_range_and_determinism(name):
    images = torch.rand(3, 3, 64, 64, generator=seeded(1))
    before = images.clone()
    first, again, other = (ALL[name](images, seeded(seed)) for seed in (2, 2, 3))
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)
    assert not torch.equal(first, images)


def test_all_ways_to_cheat_are_known():
    assert set(CORRUPTIONS) == {"blur", "noise", "flat", "grid", "over_contrast", "blots"}


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
    images = pictures(64)
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
    images = pictures(32, 0.45, 0.55)  # 0.05 x 4 stays inside [0, 1]
    middle = images.mean((1, 2, 3), keepdim=True)
    factor = (over_contrast(images, seeded()) - middle).std((1, 2, 3)) / (images - middle).std((1, 2, 3))
    assert 2.0 - 1e-3 <= factor.min() < 2.3
    assert 3.7 < factor.max() <= 4.0 + 1e-3


def test_blots_have_no_picture_left_and_are_soft():
    first, second = blots(grey(4, 0.0), seeded()), blots(pictures(4), seeded())
    assert torch.equal(first, second)
    assert first.diff(dim=-1).abs().mean() < 0.1 * first.std()
    assert first.std() > 0.2


def test_light_augment_changes_little():
    images = pictures()
    for seed in range(10):
        result = light_augment(images, seeded(seed))
        # exposure and contrast by a tenth each, two pixels of a soft picture, 1.5 % of noise
        assert (result - images).abs().mean() < 0.12
        assert (result.mean((1, 2, 3)) / images.mean((1, 2, 3)) - 1).abs().max() < 0.11


def test_light_augment_shifts_by_two_pixels_at_most():
    images = torch.zeros(1, 3, 32, 32)
    images[:, :, 16, 16] = 1.0
    places = set()
    for seed in range(60):
        result = light_augment(images, seeded(seed))[0].sum(0)
        places.add(divmod(int(result.argmax()), 32))
    rows, columns = (sorted({place[axis] for place in places}) for axis in (0, 1))
    assert rows == columns == [14, 15, 16, 17, 18]


def test_photo_augment_is_light_and_half_of_the_time_jpeg():
    images = pictures(2)
    plain = 0
    for seed in range(40):
        generator = seeded(seed)
        light = light_augment(images, generator)
        coin = torch.rand((), generator=generator)
        result = photo_augment(images, seeded(seed))
        if torch.equal(result, light):
            plain += 1
            assert coin >= 0.5
        else:
            quality = int(torch.randint(55, 96, (), generator=generator))
            assert torch.equal(result, jpeg_round_trip(light, quality))
    assert 10 < plain < 30
