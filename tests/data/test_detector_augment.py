"""The augmentation of one training image."""

import dataclasses

import pytest
import torch

from realgen.data import DetectorAugment
from realgen.functional.augment import center_square

NOTHING = {"crop": 0.0, "flip": 0.0, "rescale": 0.0, "blur": 0.0, "jpeg": 0.0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(40, 90), (90, 40), (20, 20)])
@pytest.mark.parametrize("method", ["__call__", "cheat"])
def test_any_size_becomes_a_square_that_the_generator_decides(size, method):
    image = torch.rand(3, *size, generator=seeded(1))
    change = getattr(DetectorAugment(), method)
    first, again, other = (change(image, 32, seeded(seed)) for seed in (2, 2, 3))
    assert first.shape == (3, 32, 32)
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("size", [(40, 40), (40, 90)])
def test_without_any_change_a_image_is_as_in_validation(size):
    image = torch.rand(3, *size, generator=seeded(1))
    result = DetectorAugment(**NOTHING)(image, 32, seeded())
    assert torch.equal(result, center_square(image[None], 32)[0])


@pytest.mark.parametrize("name", ["crop", "flip", "rescale", "blur", "jpeg"])
def test_each_change_happens_with_its_own_probability(name):
    image = torch.rand(3, 32, 32, generator=seeded(1))
    plain = DetectorAugment(**NOTHING)(image, 32, seeded())
    often = dataclasses.replace(DetectorAugment(**NOTHING), **{name: 0.5, "rescale_factor": (0.5, 0.5)})
    changed = sum(not torch.equal(often(image, 32, seeded(seed)), plain) for seed in range(100))
    assert changed == pytest.approx(50, abs=15)  # three deviations


def test_a_flip_mirrors():
    image = torch.rand(3, 32, 32, generator=seeded(1))
    mirrored = dataclasses.replace(DetectorAugment(**NOTHING), flip=1.0)(image, 32, seeded())
    assert torch.equal(mirrored, image.flip(-1))


def test_every_cheat_is_drawn(monkeypatch):
    from realgen.data import detector_augment

    seen = set()
    spies = {name: lambda images, _, name=name: seen.add(name) or images for name in detector_augment.CHEATS}
    monkeypatch.setattr(detector_augment, "CHEATS", spies)
    for seed in range(60):
        DetectorAugment().cheat(torch.rand(3, 8, 8), 8, seeded(seed))
    assert seen == set(spies)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("crop", -0.1, "crop must be a probability, 0 to 1, got -0.1"),
        ("jpeg", 1.5, "jpeg must be a probability, 0 to 1, got 1.5"),
        ("crop_area", (0.0, 1.0), r"crop_area must rise within 0.0 \(excluded\) and 1.0, got 0.0 to 1.0"),
        ("crop_area", (0.9, 0.5), "crop_area must rise"),
        ("jpeg_quality", (50, 101), "jpeg_quality must rise"),
        ("blur_sigma", (-1.0, 1.0), "blur_sigma must rise"),
    ],
)
def test_impossible_numbers_are_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        DetectorAugment(**{name: value})
