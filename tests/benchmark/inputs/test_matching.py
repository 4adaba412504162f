"""Formats made alike: what comes out is alike, what cannot be made alike is said."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from realgen.benchmark.inputs.matching import FormatMatching, check_matching, survey
from realgen.data.image_files import read_image
from tests.helpers.toy_bench import write_grey


def test_shape_size_and_quality_become_one() -> None:
    matching = FormatMatching(size=64, quality=75)
    real_image = torch.from_numpy(data.rocket()).permute(2, 0, 1)[None].float() / 255  # 427 x 640
    changed = matching(real_image)
    assert changed.shape == (1, 3, 64, 64)
    file = io.BytesIO()
    square = Image.fromarray(data.rocket()[:, 106:533]).resize((64, 64), Image.Resampling.BICUBIC)
    square.save(file, format="JPEG", quality=75)
    expected = np.array(Image.open(file)) / 255
    assert np.abs(changed[0].permute(1, 2, 0).numpy() - expected).mean() < 0.01


def test_a_saved_image_and_its_lossless_copy_look_alike_afterwards(tmp_path: Path) -> None:
    """The difference of the files is what a detector of formats would read."""
    crop = Image.fromarray(data.chelsea()[:256, :256])
    crop.save(tmp_path / "a.jpg", quality=90)
    crop.save(tmp_path / "a.png")
    files = [read_image(tmp_path / name)[None] for name in ("a.jpg", "a.png")]
    before = (files[0] - files[1]).abs().mean()
    matched = [FormatMatching(size=96, quality=60)(image) for image in files]
    assert (matched[0] - matched[1]).abs().mean() < 0.75 * before


def test_without_jpeg_only_shape_and_size_change() -> None:
    image = torch.full((1, 3, 20, 30), 0.3)
    torch.testing.assert_close(FormatMatching(size=10, quality=None)(image), torch.full((1, 3, 10, 10), 0.3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": 0}, "size must be at least 1"), ({"quality": 101}, "quality must be 1 to 100, or null, got 101")],
)
def test_wrong_settings(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FormatMatching(**settings)


def test_survey_counts_by_content_not_by_name(tmp_path: Path) -> None:
    """The published set has WebP and RGBA PNG files that are called .jpg."""
    files = [
        write_grey(tmp_path / "0.jpg", 5, size=(40, 30), quality=80),
        write_grey(tmp_path / "1.jpg", 5, size=(20, 20), format="WEBP"),
        tmp_path / "2.jpg",
    ]
    Image.new("RGBA", (50, 60), (1, 2, 3, 4)).save(files[2], format="PNG")
    found = survey(files, argument="real")
    assert (found.number, found.jpeg_quality, found.shorter_side) == (3, 80.0, 20)
    assert found.jpeg_share == pytest.approx(1 / 3)
    assert found.square_share == pytest.approx(1 / 3)
    assert found.smallest.endswith("1.jpg")
    assert str(found) == "3 images, 33% JPEG (median quality 80), 33% square, shorter side from 20 pixels"


def test_broken_files_are_named(tmp_path: Path) -> None:
    whole = write_grey(tmp_path / "0.jpg", 5, size=(400, 300))
    (tmp_path / "1.jpg").write_bytes(whole.read_bytes()[:900])
    (tmp_path / "2.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"flux: cannot decode .*1\.jpg .* and 1 more"):
        survey([whole, tmp_path / "1.jpg", tmp_path / "2.jpg"], argument="flux")


def test_an_image_too_large_to_decode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_grey(tmp_path / "0.jpg", 5, size=(400, 300))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"flux: cannot decode .*0\.jpg .*decompression bomb"):
        survey([path], argument="flux")


def test_what_cannot_be_matched_is_said(tmp_path: Path) -> None:
    sharp = survey([write_grey(tmp_path / "a.png", 0, size=(64, 64))], argument="a")
    poor = survey([write_grey(tmp_path / "b.jpg", 0, size=(64, 80), quality=40)], argument="b")
    formats = {"a": sharp, "b": poor}
    with pytest.raises(ValueError, match=r"matching\.size=65 would enlarge .* Choose .* --matching\.size=64"):
        check_matching(FormatMatching(size=65), formats)
    (warning,) = check_matching(FormatMatching(size=64, quality=75), formats)
    assert warning.startswith("b: its JPEG files have quality 40, worse than matching.quality=75")
    assert check_matching(FormatMatching(size=64, quality=40), formats) == []
    (warning,) = check_matching(None, formats)
    assert "differ in file format" in warning
    assert check_matching(None, {"a": sharp}) == []
