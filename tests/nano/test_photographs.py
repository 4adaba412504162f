"""Real photographs, deterministic crops, and a look that differs from them the way it says."""

from importlib import resources

import numpy as np
import pytest
from PIL import Image

from experiments.nano import photographs
from experiments.nano.photographs import HELD_OUT_SHARE, SUBJECTS, Subject, ai_look, photograph, real_crop

FILES = sorted({subject.file for subject in SUBJECTS})
TEXTURES = [subject for subject in SUBJECTS if subject.center is None]


class Camera:
    """Stands for a photograph and remembers the boxes that are cut out of it."""

    size = (600, 400)

    def __init__(self):
        self.boxes = []

    def resize(self, size, _, *, box):
        self.boxes.append(box)
        return Image.new("RGB", size)


@pytest.fixture
def camera(monkeypatch):
    camera = Camera()
    monkeypatch.setattr(photographs, "photograph", lambda _: camera)
    return camera


def spectrum_above(picture, cycles):
    """Energy of a picture's grey above a spatial frequency, in cycles per pixel."""
    grey = picture.mean(-1) - picture.mean()
    power = np.abs(np.fft.fft2(grey)) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(len(grey))] * 2))
    return power[frequency > cycles].sum()


def saturation(picture):
    return (picture.max(-1) - picture.min(-1)).mean()


def test_20_subjects_of_14_photographs():
    assert len(SUBJECTS) == 20
    assert len(FILES) == 14
    assert all(len(subject.names) == 4 for subject in SUBJECTS)
    names = [name for subject in SUBJECTS for name in subject.names]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("file", FILES)
def test_the_installed_packages_ship_the_photograph(file):
    folders = [resources.files("skimage").joinpath("data"), resources.files("sklearn").joinpath("datasets/images")]
    assert sum(folder.joinpath(file).is_file() for folder in folders) == 1
    image = photograph(file)
    assert image.mode == "RGB"
    assert min(image.size) >= 300
    assert max(image.size) <= photographs.MAX_SIDE


def test_missing_photograph_is_named():
    with pytest.raises(FileNotFoundError, match=r"'nobody\.png' is in neither scikit-image nor scikit-learn"):
        photograph("nobody.png")


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.names[0])
def test_crops_are_pictures_and_a_function_of_the_seed(subject):
    first, again, other = (real_crop(subject, np.random.default_rng(seed), size=32) for seed in (3, 3, 4))
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert first.std() > 0.01
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.names[0])
def test_crops_are_square_inside_the_photograph_and_of_the_subjects_size(subject, camera):
    rng = np.random.default_rng(0)
    for number in range(200):
        real_crop(subject, rng, held_out=number % 2 == 0)
    for left, top, right, bottom in camera.boxes:
        assert right - left == pytest.approx(bottom - top)
        assert subject.size[0] * 400 <= right - left <= subject.size[1] * 400
        assert left >= 0
        assert top >= 0
        assert right <= 600 + 1e-9
        assert bottom <= 400 + 1e-9


def test_objects_stay_at_their_place(camera):
    subject = Subject(("a thing",), "thing.png", (0.5, 0.5), (0.5, 0.6))
    for seed in range(100):
        real_crop(subject, np.random.default_rng(seed))
    centers = np.array([[(left + right) / 2, (top + bottom) / 2] for left, top, right, bottom in camera.boxes])
    # the place is moved by 6 % of the side, at most 0.06 * 0.6 * 400 = 14.4 pixels
    assert np.abs(centers - [300, 200]).max() <= 14.4
    assert np.abs(centers - [300, 200]).max() > 10


@pytest.mark.parametrize("subject", TEXTURES, ids=lambda subject: subject.names[0])
def test_held_out_crops_of_textures_hold_what_training_crops_keep_out_of(subject, camera):
    split = 400 * (1 - HELD_OUT_SHARE)
    rng = np.random.default_rng(0)
    for _ in range(100):
        real_crop(subject, rng)
    # one pixel of play, where a crop fills the whole training part; the retina's largest crops are larger than it
    lowest = max(split, subject.size[1] * 400) + 1
    assert all(bottom <= lowest for *_, bottom in camera.boxes)
    camera.boxes.clear()
    for _ in range(100):
        real_crop(subject, rng, held_out=True)
    for _, top, _, bottom in camera.boxes:
        unseen = bottom - max(top, split)
        # all of it, or the whole held-out end when the crop is larger than that
        assert unseen >= min(bottom - top, HELD_OUT_SHARE * 400) - 1e-6


@pytest.mark.parametrize("center", [None, (0.5, 0.5)], ids=["texture", "object"])
def test_textures_are_mirrored_half_of_the_time_and_all_are_exposed_differently(monkeypatch, center):
    left_white = Image.fromarray(np.repeat(np.array([[200] * 50 + [0] * 50], np.uint8), 200, axis=0)).convert("RGB")
    monkeypatch.setattr(photographs, "photograph", lambda _: left_white)
    subject = Subject(("a wall",), "wall.png", center, (1.0, 1.0))
    crops = [real_crop(subject, np.random.default_rng(seed), size=16) for seed in range(200)]
    mirrored = [crop[8, 0, 0] < crop[8, -1, 0] for crop in crops]
    assert 70 < sum(mirrored) < 130 if center is None else not any(mirrored)
    # 200 in the middle of the white half, where Lanczos may make 202 of it, times 0.92 to 1.08
    gains = np.array([max(crop[8, 4, 0], crop[8, 11, 0]) for crop in crops]) * 255 / 200
    assert 0.91 <= gains.min() < 0.94
    assert 1.06 < gains.max() <= 1.09


def test_ai_look_is_a_function_of_the_seed_and_a_picture():
    crop = real_crop(SUBJECTS[0], np.random.default_rng(0))
    first, again, other = (ai_look(crop, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == crop.shape
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.names[0])
def test_ai_look_is_smoother_and_louder(subject):
    rng = np.random.default_rng(0)
    crops = [real_crop(subject, rng) for _ in range(3)]
    looks = [ai_look(crop, rng) for crop in crops]
    # relative to all detail, since the look also hardens contrast
    fine = [sum(spectrum_above(p, 0.25) for p in pictures) / sum(spectrum_above(p, 0) for p in pictures)
            for pictures in (crops, looks)]  # fmt: skip
    assert fine[1] < 0.95 * fine[0]
    if subject.names[0] == "galaxies":
        return  # their colour is in faint stars, which melt into the black sky
    assert sum(map(saturation, looks)) > 1.1 * sum(map(saturation, crops))
