"""Pictures of all formats as what they look like: upright, 8-bit RGB, on white."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps


def open_photograph(data: bytes) -> Image.Image:
    """Decode a picture as ``upright_rgb`` shows it.

    Args:
        data: An image file.

    Returns:
        A picture of mode RGB.

    Raises:
        ValueError: If a part of it cannot be decoded, or its range is not known.
    """
    try:
        return upright_rgb(Image.open(io.BytesIO(data)))
    # All that Pillow was seen to raise on damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image cannot be decoded ({error})") from error


def upright_rgb(picture: Image.Image) -> Image.Image:
    """A picture as a viewer shows it on a white page: upright, in 8-bit RGB, white where it is transparent.

    Whatever reads image files that others made goes through here, so that what is judged is what is shown.

    Args:
        picture: Of any mode whose range is known, palettes and CMYK included; its numbers are taken as sRGB. 16-bit
            grey is rounded to 8 bits (Pillow's own conversion makes all of it above 255 white).

    Returns:
        A new picture of mode RGB.

    Raises:
        ValueError: If its pixels are 32-bit numbers, whose range is not known.

    Example:
        >>> upright_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 102))).getpixel((0, 0))
        (153, 153, 153)
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F"):
        raise ValueError(f"the range of its 32-bit pixels (mode {picture.mode}) is not known; save it in 8 or 16 bits")
    if picture.mode.startswith("I;16"):
        levels = np.array(picture).astype(np.float64)
        levels[levels == picture.info.get("transparency", -1)] = 65535
        picture = Image.fromarray((levels / 257).round().astype(np.uint8))
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return picture.convert("RGB")
