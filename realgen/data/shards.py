"""The format of prompt shards, and how they are written.

A shard is a plain tar file that WebDataset reads. One sample is a run of members with one key:

    000000042.txt    the prompt, UTF-8
    000000042.json   optional: an object with anything else that is known of the prompt
    000000042.png    optional: the prompt's real image (or .jpg, .webp, .bmp, .tif)

A sample's name ends at its first dot, as in WebDataset.
"""

import glob
import io
import itertools
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from realgen.checks import check_at_least
from realgen.data.prompt_text import MAX_CHARACTERS, checked_text
from realgen.image_decoding import FORMATS, decode_image, how_to_read

REAL_IMAGE_SUFFIXES = tuple(FORMATS)
MAX_BYTES = {".txt": 4 * MAX_CHARACTERS + 4, ".json": 2**22} | dict.fromkeys(REAL_IMAGE_SUFFIXES, 2**29)
"""Largest member of each suffix that is read."""


def write_shards(
    samples: Iterable[Mapping[str, Any]],
    output: str | Path,
    samples_per_shard: int = 1000,
    *,
    overwrite: bool = False,
    refuse: Callable[[ValueError], None] | None = None,
) -> list[Path]:
    """Write samples into ``output/NAME-000000.tar``, ``output/NAME-000001.tar``, ... where NAME is the folder's name.

    The same samples give the same bytes. The shards appear in ``output`` when all of them are complete: a sample that
    cannot be written leaves the folder as it was.

    Args:
        samples: Each has ``prompt``, a text; optionally ``image``, a ``PIL.Image`` (stored as PNG), the path of an
            image file (stored as it is) or None; every other field must be JSON and is kept as the prompt's metadata.
        output: Folder of the shards; made if it does not exist.
        samples_per_shard: At least 1; the last shard may hold fewer.
        overwrite: Replace the shards ``NAME-*.tar`` that the folder holds. Other files in it stay.
        refuse: Told of each sample that cannot be written, which is left out then; None raises at the first.

    Returns:
        Paths of the shards, in order.

    Raises:
        ValueError: If ``samples_per_shard`` is less than 1.
        ValueError: If the folder holds shards of this name and ``overwrite`` is False.
        ValueError: If there is no sample, or a sample has no prompt, a field that is not JSON, or an unusable image.
    """
    output = Path(output)
    name = output.resolve().name
    check_at_least(1, samples_per_shard=samples_per_shard)
    old = sorted(output.glob(f"{glob.escape(name)}-{'[0-9]' * 6}.tar"))
    if old and not overwrite:
        raise ValueError(f"output {output} already holds {len(old)} shards ({old[0].name}, ...); overwrite to replace.")

    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=output.parent))
    try:
        new = _write_all(samples, unfinished, name, samples_per_shard, refuse)
        output.mkdir(exist_ok=True)
        for path in old:
            path.unlink()
        for path in new:
            os.replace(path, output / path.name)
    finally:
        shutil.rmtree(unfinished)
    return [output / path.name for path in new]


def _write_all(
    samples: Iterable[Mapping[str, Any]],
    folder: Path,
    name: str,
    samples_per_shard: int,
    refuse: Callable[[ValueError], None] | None,
) -> list[Path]:
    numbered = enumerate(samples)
    paths: list[Path] = []
    for first in numbered:
        paths.append(folder / f"{name}-{len(paths):06d}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for number, sample in itertools.chain([first], itertools.islice(numbered, samples_per_shard - 1)):
                try:
                    members = _encode(number, sample)
                except ValueError as error:
                    if refuse is None:
                        raise
                    refuse(error)
                    continue
                for suffix, data in members.items():
                    member = tarfile.TarInfo(f"{number:09d}{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    if not paths:
        raise ValueError("samples must hold at least one prompt, got none.")
    return paths


def _encode(number: int, sample: Mapping[str, Any]) -> dict[str, bytes]:
    """Encode one sample as the members of its shard: suffix -> bytes."""
    prompt = sample.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"sample {number}: 'prompt' must be a text that is not empty, got {prompt!r}.")
    fields = {name: value for name, value in sample.items() if name not in ("prompt", "image")}
    try:
        members = {".txt": checked_text(prompt).encode()}
        if fields:
            members[".json"] = json.dumps(fields, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"sample {number} ({prompt[:80]!r}) cannot be stored as JSON and UTF-8: {error}.") from error
    if sample.get("image") is not None:
        suffix, data = _encode_real_image(number, sample["image"])
        members[suffix] = data
    for suffix, data in members.items():
        if len(data) > MAX_BYTES[suffix]:
            raise ValueError(
                f"sample {number}: its {suffix} has {len(data)} bytes, at most {MAX_BYTES[suffix]} are read."
            )
    return members


def _encode_real_image(number: int, image: Any) -> tuple[str, bytes]:
    if isinstance(image, Image.Image):
        png = io.BytesIO()
        image.save(png, format="PNG")
        return ".png", png.getvalue()
    if not isinstance(image, str | Path):
        raise ValueError(f"sample {number}: 'image' must be a PIL.Image, a path or None, got {type(image).__name__}.")
    path = Path(image)
    suffix = path.suffix.lower()
    if suffix not in REAL_IMAGE_SUFFIXES:
        allowed = ", ".join(REAL_IMAGE_SUFFIXES)
        raise ValueError(f"sample {number}: the image must end in {allowed}, got {path.name!r}{how_to_read(suffix)}.")
    if not path.is_file():
        raise ValueError(f"sample {number}: the image {path} does not exist.")
    data = path.read_bytes()
    try:
        decode_image(data)
    except ValueError as error:
        raise ValueError(f"sample {number}: {path}: {error}.") from error
    return suffix.replace(".jpeg", ".jpg"), data
