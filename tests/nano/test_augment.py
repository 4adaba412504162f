"""The mild augmentation changes little, and is a function of the generator."""

import pytest
import torch

from experiments.nano.augment import light_augment, photo_augment
from realgen.functional.images import jpeg_round_trip

ALL = {"light_augment": light_augment, "photo_augment": photo_augment}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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
