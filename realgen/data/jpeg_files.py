"""JPEG files among images: the quality at which they were saved, and qualities to save the others alike.

Photographs come as JPEG files, generated images mostly as lossless ones, and whatever is fitted on both learns the
traces of JPEG first (Grommelt et al., arXiv:2403.17608).
"""

import functools
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from realgen.data.image_files import ImageFile
from realgen.image_decoding import open_image

QUALITIES = range(1, 101)


def jpeg_quality(path: Path) -> int | None:
    """Estimate at which quality, 1 to 100, a JPEG file was saved; None if it is none, or cannot be read.

    That of libjpeg's table of brightness (ITU-T T.81, annex K, scaled) nearest to the file's; exact for files that
    libjpeg wrote. Only the header is read.
    """
    try:
        with open_image(path) as image:
            tables = getattr(image, "quantization", None)
    except ValueError:
        return None
    if not tables:
        return None
    table = tables[min(tables)]
    return min(QUALITIES, key=lambda quality: sum(abs(a - b) for a, b in zip(table, _table(quality), strict=True)))


def matching_qualities(files: Sequence[ImageFile], qualities: Mapping[Path, int]) -> dict[Path, int]:
    """Choose qualities for the files that are no JPEG, distributed as those of the JPEG files.

    ``qualities`` are those of the JPEG files. Each other file gets that of one which the hash of its name chooses; none
    does where there is no JPEG file.
    """
    known = sorted(qualities.values())
    if not known:
        return {}
    others = ((file, hashlib.sha256(os.fsencode(file.name)).digest()) for file in files if file.path not in qualities)
    return {file.path: known[int.from_bytes(digest[:8], "big") % len(known)] for file, digest in others}


@functools.cache
def _table(quality: int) -> tuple[int, ...]:
    """Return libjpeg's quantisation table of brightness, read out of a file that Pillow writes."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, format="JPEG", quality=quality)
    with open_image(file.getvalue()) as image:
        tables = vars(image)["quantization"]
    return tuple(tables[min(tables)])
