"""JPEG files among images: the quality at which they were saved, and qualities to save the others alike.

Photographs come as JPEG files, generated images mostly as lossless ones, and whatever is fitted on both learns the
traces of JPEG first (Grommelt et al., arXiv:2403.17608).
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from realgen.data.image_decoding import DECODING_ERRORS
from realgen.data.image_files import ImageFile

QUALITIES = range(1, 101)


def jpeg_quality(path: Path) -> int | None:
    """Estimate at which quality a JPEG file was saved, from its quantisation table of brightness.

    Args:
        path: An image file of any format; only its header is read.

    Returns:
        1 to 100, that of libjpeg's table (ITU-T T.81, annex K, scaled) nearest to the file's; exact for files that
        libjpeg wrote. None if the file is no JPEG, or cannot be read.
    """
    try:
        with Image.open(path) as image:
            tables = getattr(image, "quantization", None)
    except DECODING_ERRORS:
        return None
    if not tables:
        return None
    table = tables[min(tables)]
    return min(QUALITIES, key=lambda quality: sum(abs(a - b) for a, b in zip(table, _table(quality), strict=True)))


def matching_qualities(files: Sequence[ImageFile], qualities: Mapping[Path, int]) -> dict[Path, int]:
    """Choose qualities for the files that are no JPEG, distributed as those of the JPEG files.

    Args:
        files: All files.
        qualities: Of those that are JPEG.

    Returns:
        Quality of each other file: that of a JPEG file which the hash of its name chooses. Empty if none is a JPEG.
    """
    known = sorted(qualities.values())
    if not known:
        return {}
    others = [file for file in files if file.path not in qualities]
    return {file.path: known[_hash(file.name) % len(known)] for file in others}


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


@functools.cache
def _table(quality: int) -> tuple[int, ...]:
    """Return libjpeg's quantisation table of brightness, read out of a file that Pillow writes."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, format="JPEG", quality=quality)
    with Image.open(file) as image:
        tables = vars(image)["quantization"]
    return tuple(tables[min(tables)])
