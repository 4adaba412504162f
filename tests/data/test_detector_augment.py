"""The augmentation of one training image."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from realgen.data import DetectorAugment
from realgen.functional.images import center_square, jpeg_round_trip

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


def only(**changes):
    return DetectorAugment(**{**NOTHING, **changes})


def test_a_crop_has_the_area_and_aspect_that_were_drawn_and_lies_anywhere():
    x, y = torch.meshgrid((torch.arange(90) + 0.5) / 90, (torch.arange(60) + 0.5) / 60, indexing="xy")
    ramps = torch.stack([x, y, torch.zeros(60, 90)])  # a pixel tells where it came from
    augment = only(crop=1.0, crop_area=(0.2, 0.4), aspect=(0.5, 2.0))
    cuts = torch.stack([augment(ramps, 32, seeded(seed)) for seed in range(200)])
    # over 32 pixels a ramp of slope s rises by s * 31 / 32 between the middles of the outer pixels
    width, height = 2 * (cuts[:, 0, 16, 24] - cuts[:, 0, 16, 8]), 2 * (cuts[:, 1, 24, 16] - cuts[:, 1, 8, 16])
    area, aspect = width * height, width * 90 / (height * 60)
    assert 0.18 < area.min() < 0.25
    assert 0.35 < area.max() < 0.43
    assert 0.45 < aspect.min() < 0.65
    assert 1.6 < aspect.max() < 2.2
    middles = cuts[:, :2].mean((2, 3))
    assert middles.min() < 0.33
    assert middles.max() > 0.67


def test_rescaling_by_half_loses_the_finest_stripes():
    stripes = torch.zeros(3, 32, 32)
    stripes[..., ::2] = 1.0
    half = only(rescale=1.0, rescale_factor=(0.5, 0.5))(stripes, 32, seeded())
    assert half[:, 8:24, 8:24].std() < 0.05


def test_blur_spreads_a_point_by_its_sigma():
    point = torch.zeros(3, 33, 33)
    point[:, 16, 16] = 1.0
    offsets = torch.arange(33) - 16.0
    line = only(blur=1.0, blur_sigma=(1.5, 1.5))(point, 33, seeded())[0].sum(0)
    assert line.sum() == pytest.approx(1.0, abs=1e-5)
    assert (line * offsets**2).sum().sqrt() == pytest.approx(1.5, rel=0.02)


def test_jpeg_is_a_round_trip_of_a_quality_in_the_interval():
    image = F.interpolate(torch.rand(1, 3, 6, 6, generator=seeded(5)), size=48)[0]
    trips = torch.stack([jpeg_round_trip(image[None], quality)[0] for quality in (5, 6)])
    results = [only(jpeg=1.0, jpeg_quality=(5, 6))(image, 48, seeded(seed)) for seed in range(10)]
    errors = torch.stack([(trips - result).abs().mean((1, 2, 3)) for result in results])
    assert errors.amin(1).max() < 1 / 255
    assert errors.argmin(1).unique().tolist() == [0, 1]


def test_the_global_generator_goes_on_as_before():
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    DetectorAugment()(torch.rand(3, 20, 30, generator=seeded()), 16, seeded())
    assert torch.equal(torch.rand(()), expected)


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
