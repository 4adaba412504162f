"""Images small enough to stand inside a page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from realgen.image_decoding import decode_image

SIDES = (320, 256, 192, 128, 96, 64)
"""Longest sides that are tried, in pixels."""
QUALITIES = (85, 70, 50)
"""JPEG qualities that are tried at each of them."""


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI."""

    uri: str
    width: int
    height: int


def thumbnails(paths: Sequence[Path], *, budget: int) -> dict[Path, Thumbnail]:
    """Shrink images until all, as often as named, fit into a page's budget; what cannot be read or fit is left out."""
    if not paths:
        return {}
    share = budget // len(paths)
    found = {path: thumbnail(path, share) for path in dict.fromkeys(paths)}
    return {path: small for path, small in found.items() if small is not None}


@lru_cache(maxsize=512)
def thumbnail(path: Path, limit: int, changed: int = 0) -> Thumbnail | None:
    """Shrink an image to ``limit`` bytes, or to None, once in a process until the time ``changed`` is another."""
    try:
        image = decode_image(path)
    except ValueError:  # the page names the file
        return None
    for side in SIDES:
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in QUALITIES:
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=quality, optimize=True)
            uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            if len(uri) <= limit:
                return Thumbnail(uri, *small.size)
    return None
