from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from realgen.benchmark.report.thumbnails import Thumbnail, thumbnails


def opened(thumbnail: Thumbnail) -> Image.Image:
    head, _, data = thumbnail.uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_an_image_is_shrunk_and_keeps_its_shape(tmp_path: Path) -> None:
    Image.new("RGB", (800, 400), (10, 200, 30)).save(tmp_path / "a.png")
    found = thumbnails([tmp_path / "a.png"], budget=100_000)[tmp_path / "a.png"]
    assert (found.width, found.height) == opened(found).size == (320, 160)
    np.testing.assert_allclose(np.asarray(opened(found))[80, 160], (10, 200, 30), atol=3)


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 16, 32))
    image.save(tmp_path / "a.png")
    image.convert("P").save(tmp_path / "b.png", transparency=image.convert("P").getpixel((31, 0)))
    found = thumbnails([tmp_path / "a.png", tmp_path / "b.png"], budget=100_000)
    for thumbnail in found.values():
        pixels = np.asarray(opened(thumbnail).convert("RGB"))
        np.testing.assert_allclose(pixels[16, 4], (0, 0, 255), atol=8)
        np.testing.assert_allclose(pixels[16, 28], (255, 255, 255), atol=8)
    assert len(found) == 2


def test_an_image_on_its_side_is_put_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    found = thumbnails([tmp_path / "a.jpg"], budget=100_000)
    assert (found[tmp_path / "a.jpg"].width, found[tmp_path / "a.jpg"].height) == (20, 40)


def test_what_is_no_image_or_not_there_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:500])
    assert thumbnails([tmp_path / name for name in ("a.png", "b.png", "cut.png")], budget=10_000) == {}
    assert thumbnails([], budget=1) == {}


def test_each_use_of_an_image_has_its_share(tmp_path: Path) -> None:
    Image.effect_noise((300, 300), 90).convert("RGB").save(tmp_path / "a.png")
    once = thumbnails([tmp_path / "a.png"], budget=20_000)[tmp_path / "a.png"]
    often = thumbnails([tmp_path / "a.png"] * 5, budget=20_000)[tmp_path / "a.png"]
    assert len(once.uri) <= 20_000
    assert len(often.uri) <= 4_000
    assert thumbnails([tmp_path / "a.png"], budget=300) == {}
