"""Each augmentation does what it says, and is a function of its generator."""

import math

import pytest
import torch
from torch.nn import functional as F

from realgen.functional.augment import (
    center_square,
    chance,
    draw,
    random_blur,
    random_crop,
    random_jpeg,
    random_rescale,
)
from realgen.functional.images import jpeg_round_trip, resize

ALL = {
    "crop": lambda x, g: random_crop(x, 48, area=(0.3, 0.9), aspect=(0.5, 2.0), generator=g),
    "rescale": lambda x, g: random_rescale(x, factor=(0.3, 0.9), generator=g),
    "blur": lambda x, g: random_blur(x, sigma=(0.3, 2.0), generator=g),
    "jpeg": lambda x, g: random_jpeg(x, quality=(10, 90), generator=g),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ramps(height=60, width=90):
    """Red rises from left to right, green from top to bottom: a pixel tells where it came from."""
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.zeros(height, width)])[None]


@pytest.mark.parametrize("name", ALL)
def test_range_and_determinism(name):
    images = torch.rand(2, 3, 48, 48, generator=seeded(1))
    before = images.clone()
    first, again, other = (ALL[name](images, seeded(seed)) for seed in (2, 2, 3))
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)


def test_draw_is_uniform_over_its_interval():
    generator = seeded()
    numbers = torch.tensor([draw((2.0, 4.0), generator) for _ in range(400)])
    assert 2.0 <= numbers.min() < 2.05
    assert 3.95 < numbers.max() <= 4.0
    assert numbers.mean() == pytest.approx(3.0, abs=0.1)


def test_chance_happens_as_often_as_it_says():
    generator = seeded()
    assert sum(chance(0.25, generator) for _ in range(1000)) == pytest.approx(250, abs=45)  # three deviations


def test_a_crop_has_the_area_and_aspect_that_were_drawn():
    area, aspect = [], []
    for seed in range(200):
        cut = random_crop(ramps(), 32, area=(0.2, 0.4), aspect=(0.5, 2.0), generator=seeded(seed))[0]
        # over 32 pixels a ramp of slope s rises by s * 31 / 32 between the middles of the outer pixels
        width = float(cut[0, 16, 24] - cut[0, 16, 8]) * 2
        height = float(cut[1, 24, 16] - cut[1, 8, 16]) * 2
        area.append(width * height)
        aspect.append(width * 90 / (height * 60))
    assert min(area) > 0.18
    assert max(area) < 0.43
    assert max(area) - min(area) > 0.15
    assert 0.45 < min(aspect) < 0.65
    assert 1.6 < max(aspect) < 2.2
    logs = torch.tensor(aspect).log()
    assert logs.mean() == pytest.approx(0.0, abs=3 * math.log(2) / math.sqrt(3 * 200))


def test_crops_lie_anywhere():
    middles = [random_crop(ramps(), 32, area=(0.1, 0.1), aspect=(1.0, 1.0), generator=seeded(s))[0] for s in range(100)]
    for channel in (0, 1):
        places = torch.stack([cut[channel].mean() for cut in middles])
        assert places.min() < 0.3
        assert places.max() > 0.7


def test_a_box_larger_than_the_image_is_clipped_to_it():
    whole = random_crop(ramps(), 32, area=(1.0, 1.0), aspect=(4.0, 4.0), generator=seeded())[0]
    assert whole[0, 0, 0] < 0.05
    assert whole[0, 0, -1] > 0.95


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (64, 64)])
def test_the_centre_square_is_the_middle(height, width):
    image = ramps(height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    expected = resize(image[:, :, top : top + side, left : left + side], 20, mode="bicubic")
    assert torch.equal(center_square(image, 20), expected)
    assert center_square(image, 20)[0, :2].mean() == pytest.approx(0.5, abs=1e-3)


def test_rescaling_by_one_changes_nothing_and_by_half_loses_the_finest_stripes():
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[..., ::2] = 1.0
    torch.testing.assert_close(random_rescale(stripes, factor=(1.0, 1.0), generator=seeded()), stripes)
    half = random_rescale(stripes, factor=(0.5, 0.5), generator=seeded())
    assert half[..., 8:24, 8:24].std() < 0.05


def test_blur_spreads_a_point_by_its_sigma():
    point = torch.zeros(1, 3, 33, 33)
    point[:, :, 16, 16] = 1.0
    offsets = torch.arange(33) - 16.0
    line = random_blur(point, sigma=(1.5, 1.5), generator=seeded())[0, 0].sum(0)
    assert line.sum() == pytest.approx(1.0, abs=1e-5)
    assert (line * offsets**2).sum().sqrt() == pytest.approx(1.5, rel=0.02)


def test_jpeg_is_a_round_trip_of_a_quality_in_the_interval():
    image = F.interpolate(torch.rand(1, 3, 6, 6, generator=seeded(5)), size=48)
    trips = [jpeg_round_trip(image, quality) for quality in (20, 21, 22)]
    found = set()
    for seed in range(30):
        result = random_jpeg(image, quality=(20, 22), generator=seeded(seed))
        found.add(next(i for i, trip in enumerate(trips) if torch.equal(result, trip)))
    assert found == {0, 1, 2}
