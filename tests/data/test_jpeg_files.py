from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from realgen.data.image_files import ImageFile
from realgen.data.jpeg_files import jpeg_quality, matching_qualities


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 51, 75, 90, 95, 100])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_finds_the_quality_of_pillows_files(tmp_path, quality, mode):
    to_pil_image(torch.rand(3, 24, 16)).convert(mode).save(tmp_path / "a.jpg", quality=quality)
    assert jpeg_quality(tmp_path / "a.jpg") == quality


def test_the_header_counts_and_not_the_name(tmp_path):
    to_pil_image(torch.rand(3, 8, 8)).save(tmp_path / "a.png")
    to_pil_image(torch.rand(3, 8, 8)).save(tmp_path / "b.png", format="JPEG", quality=80)
    (tmp_path / "c.jpg").write_text("no image")
    assert [jpeg_quality(tmp_path / name) for name in ("a.png", "b.png", "c.jpg", "d.jpg")] == [None, 80, None, None]


def test_an_image_too_large_to_be_opened_has_no_quality(tmp_path, monkeypatch):
    Image.new("L", (80, 80)).save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert jpeg_quality(tmp_path / "a.jpg") is None


def test_a_table_of_another_program_gets_the_nearest(tmp_path):
    # One step of 64 is off by one, as from a camera's own table.
    Image.new("L", (8, 8)).save(tmp_path / "a.jpg", quality=85)
    with Image.open(tmp_path / "a.jpg") as image:
        table = list(vars(image)["quantization"][0])
    table[10] += 1
    Image.new("L", (8, 8)).save(tmp_path / "b.jpg", qtables=[table])
    assert jpeg_quality(tmp_path / "b.jpg") == 85


def test_other_files_get_the_qualities_of_the_jpeg_files():
    files = [
        ImageFile(Path(name), name)
        for name in (f"{number}.{kind}" for number in range(2000) for kind in ("jpg", "png"))
    ]
    known = {file.path: 90 if number % 4 else 60 for number, file in enumerate(files[::2])}
    matched = matching_qualities(files, known)
    assert set(matched) == {file.path for file in files[1::2]}
    shares = Counter(matched.values())
    assert set(shares) == {60, 90}
    assert shares[60] / 2000 == pytest.approx(0.25, abs=0.04)
    assert matching_qualities(files[::-1], known) == matched


def test_without_a_jpeg_there_is_nothing_to_match():
    assert matching_qualities([ImageFile(Path("a.png"), "a.png")], {}) == {}
