"""Images of all modes: what a viewer would show, worked out by hand."""

from __future__ import annotations

import contextlib
import io
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from realgen.image_decoding import decode_image, upright_rgb


def test_no_other_file_of_the_package_opens_images() -> None:
    package = Path(__file__).parent.parent / "realgen"
    opening = {str(path.relative_to(package)) for path in package.rglob("*.py") if "Image.open(" in path.read_text()}
    assert opening == {"image_decoding.py", "functional/images.py"}  # the latter reads what it has just written


def reread(image: Image.Image, kind: str, **how: Any) -> np.ndarray:
    """Saved as a file of a kind, and opened."""
    image.save(file := io.BytesIO(), kind, **how)
    found = decode_image(file.getvalue())
    assert found.mode == "RGB"
    return np.array(found)


def test_it_is_turned_upright(make_image: Callable[..., Image.Image]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways: turn by 90 degrees clockwise
    side = make_image(height=6, width=4)
    np.testing.assert_array_equal(reread(side, "PNG", exif=exif), np.rot90(np.array(side), k=-1))


def test_what_is_transparent_lets_white_through(make_image: Callable[..., Image.Image]) -> None:
    colours = np.array(make_image())
    alpha = np.full((6, 4), 255, np.uint8)
    alpha[0], alpha[1] = 0, 51
    found = reread(Image.fromarray(np.dstack([colours, alpha])), "PNG")
    assert (found[0] == 255).all()
    np.testing.assert_allclose(found[1], 0.2 * colours[1] + 0.8 * 255, atol=0.5)
    np.testing.assert_array_equal(found[2:], colours[2:])  # what is opaque keeps its bytes


def test_grey_with_transparency() -> None:
    pixels = np.array([[[0, 0], [0, 255], [100, 102]]], np.uint8)  # level, alpha
    np.testing.assert_array_equal(reread(Image.fromarray(pixels, "LA"), "PNG")[0, :, 1], [255, 0, 193])


def test_a_transparent_colour_of_a_palette() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(reread(image, "PNG", transparency=0), [[[255, 255, 255], [0, 0, 255]]])


@pytest.mark.parametrize(("mode", "seen"), [("RGB", (255, 0, 0)), ("L", 7), ("I;16", 7)])
def test_a_transparent_colour_without_a_palette(mode: str, seen: Any) -> None:
    image = Image.new(mode, (2, 1), seen)
    image.putpixel((0, 0), (0, 0, 9) if mode == "RGB" else 9)
    found = reread(image, "PNG", transparency=(0, 0, 9) if mode == "RGB" else 9)
    assert (found[0, 0] == 255).all()
    assert found[0, 1].tolist() == {"RGB": [255, 0, 0], "L": [7, 7, 7], "I;16": [0, 0, 0]}[mode]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_become_8(kind: str) -> None:
    deep = Image.fromarray(np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16))
    assert reread(deep, kind)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_cmyk_is_light_where_there_is_no_ink() -> None:
    image = Image.new("CMYK", (32, 16))
    image.paste((0, 255, 255, 0), (16, 0, 32, 16))  # magenta and yellow make red
    found = reread(image, "JPEG", quality=95)
    np.testing.assert_allclose(found[8, 4], (255, 255, 255), atol=4)
    np.testing.assert_allclose(found[8, 28], (255, 0, 0), atol=4)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_range_that_is_not_known_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=rf"32-bit pixels \(mode {mode}\) is not known"):
        upright_rgb(Image.new(mode, (2, 2)))
    with pytest.raises(ValueError, match="cannot be decoded"):
        reread(Image.new(mode, (2, 2)), "TIFF")


@pytest.mark.attack("images", "camera notes of a wrong type")
def test_notes_of_a_camera_in_a_wrong_type_are_named() -> None:
    """Pillow writes the notes again when it turns an image, and fails by ``struct.error`` then."""
    tags = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI4s", 0x0213, 2, 4, b"side")  # turn; a wrong type
    notes = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)
    Image.new("RGB", (8, 8)).save(file := io.BytesIO(), "JPEG", exif=notes)
    with pytest.raises(ValueError, match="the image cannot be decoded"):
        decode_image(file.getvalue())


@pytest.mark.attack("images", "files with random bytes changed")
def test_damaged_files_are_decoded_or_named(make_image: Callable[..., Image.Image]) -> None:
    dice = random.Random(0)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        make_image(height=24, width=16).save(file := io.BytesIO(), kind)
        for _ in range(100):
            damaged = bytearray(file.getvalue())
            for _ in range(dice.randint(1, 6)):
                damaged[dice.randrange(min(300, len(damaged)))] = dice.choice([0, 255, dice.randrange(256)])
            with contextlib.suppress(ValueError):
                decode_image(bytes(damaged))
