"""Images of all formats as a viewer shows them: upright, 8-bit RGB, on white."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageOps

DECODING_ERRORS = (OSError, SyntaxError, ValueError, TypeError, struct.error, Image.DecompressionBombError)
"""All that Pillow was seen to raise on damaged files."""


def decode_image(data: bytes) -> Image.Image:
    """Decode an image as ``upright_rgb`` shows it.

    Args:
        data: An image file.

    Returns:
        An image of mode RGB.

    Raises:
        ValueError: If a part of it cannot be decoded, or its range is not known.
    """
    try:
        return upright_rgb(Image.open(io.BytesIO(data)))
    except DECODING_ERRORS as error:
        raise ValueError(f"the image cannot be decoded ({error})") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB, upright, and white where it is transparent.

    Whatever reads image files that others made goes through here, so that what is scored is what is shown.

    Args:
        image: Of any mode whose range is known, palettes and CMYK included; its numbers are taken as sRGB. 16-bit
            grey is rounded to 8 bits (Pillow's own conversion makes all of it above 255 white).

    Returns:
        A new image of mode RGB.

    Raises:
        ValueError: If its pixels are 32-bit numbers, whose range is not known.

    Example:
        >>> upright_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 102))).getpixel((0, 0))
        (153, 153, 153)
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
