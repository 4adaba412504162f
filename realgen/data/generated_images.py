"""Generated images on disk: PNG files that hold how they were generated, in a folder for each setting."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from realgen.data.image_decoding import DECODING_ERRORS
from realgen.data.image_files import read_image
from realgen.functional.images import to_uint8

SETTINGS_FILE = "settings.json"
"""Record of the settings that all images of a folder were generated with."""
NAMED = 3
"""Settings that a message names."""


def keep_settings(folder: Path, settings: Mapping[str, Any], *, cure: str) -> None:
    """Record the settings of a folder's images, or compare them with its record.

    Args:
        folder: Made if missing.
        settings: Everything that decides the pixels of its images, except what differs between them; JSON values.
        cure: What to do where they differ, a sentence for the user.

    Raises:
        ValueError: If the folder's images are of other settings, or its record cannot be read.
    """
    check_settings(folder, settings, cure=cure)
    record = folder / SETTINGS_FILE
    if not record.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(record, (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())


def check_settings(folder: Path, settings: Mapping[str, Any], *, cure: str) -> None:
    """Raise ValueError if the images of a folder were generated with other settings; writes nothing.

    Null counts as not set, because a setting that was added since begins as null.

    Args:
        folder: It need not exist.
        settings: See ``keep_settings``.
        cure: What to do where they differ, a sentence for the user.

    Raises:
        ValueError: If they differ (the first ones are named, ``init_args`` left out), or the record cannot be read.
    """
    record = folder / SETTINGS_FILE
    if not record.exists():
        return
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(record)!r} cannot be read ({error}). {cure}") from error
    changes = settings_changes(before, json.loads(json.dumps(settings)))
    if changes:
        raise ValueError(f"{str(folder)!r} holds images of other settings: {changes}. {cure}")


def settings_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe the first values that differ between two JSON trees, by dotted key; empty where none does.

    Null and an empty mapping count as not set; ``init_args`` is left out of the keys.

    Example:
        >>> settings_changes({"seed": 1, "policy": {"lora": None}}, {"seed": 2, "policy": {}})
        'seed was 1, now it is 2'
    """
    changes = sorted(_changes(dict(before), dict(now)))
    more = f"; and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
    return "; ".join(changes[:NAMED]) + more


def write_image(path: Path, image: Float[Tensor, "3 height width"], texts: Mapping[str, str]) -> None:
    """Write an image as a PNG file, whole or not at all.

    Args:
        path: Its folder is made if missing.
        image: In [0, 1]; rounded to 8 bits.
        texts: Stored in the file, by keyword (Latin letters, at most 79).
    """
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_itxt(keyword, text)
    to_pil_image(to_uint8(image).cpu()).save(file := io.BytesIO(), format="PNG", pnginfo=info)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getvalue())


def read_texts(path: Path) -> dict[str, str]:
    """Read the texts in a PNG file.

    Args:
        path: The file.

    Returns:
        Texts by keyword.

    Raises:
        ValueError: If it cannot be read as a PNG file.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            assert isinstance(image, PngImageFile)
            return {keyword: str(text) for keyword, text in image.text.items()}
    except DECODING_ERRORS as error:
        raise ValueError(f"{str(path)!r} cannot be read as a PNG file: {error}") from error


def read_images(paths: Sequence[Path]) -> Float[Tensor, "images 3 height width"]:
    """Read images of one size.

    Args:
        paths: The files.

    Returns:
        In [0, 1].

    Raises:
        ValueError: If one cannot be read.
    """
    images = []
    for path in paths:
        try:
            images.append(read_image(path))
        except ValueError as error:
            raise ValueError(f"{str(path)!r} cannot be read: {error}. Delete it to have it drawn again.") from error
    return torch.stack(images)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name first, hidden and one per process: a run that is killed leaves no half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def _changes(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Describe each value that differs between two JSON trees."""
    if isinstance(before, dict | None) and isinstance(now, dict | None):
        before, now = before or {}, now or {}
        for name in before.keys() | now.keys():
            inner = key if name == "init_args" else f"{key}.{name}".removeprefix(".")
            yield from _changes(before.get(name), now.get(name), inner)
    elif before != now:
        was, given = ("not set" if value is None else json.dumps(value) for value in (before, now))
        yield f"{key} was {was}, now it is {given}"
