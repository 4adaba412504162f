"""The one place that opens image files: of known formats and sizes, and shown as a viewer shows them.

Upright, 8-bit RGB, on white.
"""

import contextlib
import io
import struct
from collections.abc import Collection, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from realgen.given_files import open_regular

HEIC = (".heic", ".heif")
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    **dict.fromkeys(HEIC if find_spec("pillow_heif") else (), "HEIF"),
}
"""Pillow's format by suffix in lower case. A file may have another one of these formats than its suffix says; Pillow's
others are never tried, for some of them start programs (EPS)."""
MAX_PIXELS = 2**26
"""Largest image that is decoded, width times height; as float32 RGB it takes 0.8 GB."""
DECODING_ERRORS = (OSError, SyntaxError, ValueError, TypeError, MemoryError, struct.error, Image.DecompressionBombError)
"""All that Pillow was seen to raise on damaged files."""
_TILE_WIDTH, _TILE_LENGTH = 322, 323


def how_to_read(suffix: str) -> str:
    """Return the end of a message about a kind of image that is not read: the package that reads it, if one does."""
    return "; with the package pillow-heif (the extra heic) they are read" if suffix in HEIC else ""


@contextlib.contextmanager
def open_image(file: Path | bytes, formats: Collection[str] = FORMATS.values()) -> Iterator[Image.Image]:
    """Open an image file, a path or its content; its pixels are decoded when they are asked for, inside.

    Only ``formats``, by Pillow's names, are tried, and it has at most ``MAX_PIXELS`` pixels.

    Raises:
        ValueError: If the file cannot be read (only regular files are), is of no such format, or too large; or if
            Pillow fails inside the context.
    """
    with contextlib.ExitStack() as opened:
        stream = io.BytesIO(file) if isinstance(file, bytes) else opened.enter_context(open_regular(file))
        if "HEIF" in formats:
            import_module("pillow_heif").register_heif_opener()
        try:
            # Pillow's JPEG reader also reads MPO, the JPEG files of some phones.
            image = opened.enter_context(Image.open(stream, formats=tuple(dict.fromkeys(formats))))
            _check_size(image)
            yield image
        except DECODING_ERRORS as error:
            raise ValueError(f"the image cannot be decoded ({error or type(error).__name__})") from error


def decode_image(file: Path | bytes) -> Image.Image:
    """Decode an image file, a path or its content, as ``upright_rgb`` shows it; raise as ``open_image`` does."""
    with open_image(file) as image:
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to a new one in 8-bit RGB, upright, and white where it is transparent.

    Whatever reads image files that others made goes through here, so that what is scored is what is shown. Palettes and
    CMYK are read too, numbers taken as sRGB; 16-bit grey is rounded to 8 bits (Pillow's own conversion makes all of it
    above 255 white).

    Raises:
        ValueError: If its pixels are 32-bit numbers, whose range is not known.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise ValueError(f"the range of its 32-bit pixels (mode {image.mode}) is not known; save it in 8 or 16 bits")
    if image.mode.startswith("I;16"):
        levels = np.array(image).astype(np.float64)
        levels[levels == image.info.get("transparency", -1)] = 65535
        image = Image.fromarray((levels / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _check_size(image: Image.Image) -> None:
    """Raise ValueError for an image, or a tile of it, that would take too much memory once it is decoded."""
    tags = getattr(image, "tag_v2", {})
    for width, height in (image.size, (tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1))):
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS}; a decompression bomb, or scale it")
