"""Drawn pictures on disk: PNG files that say how they were drawn, and a folder that holds those of one setting."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from realgen.functional.images import from_uint8, to_uint8

RECORD = "settings.json"
"""What all pictures of a folder are drawn with."""


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down what the pictures of a folder are drawn with, or compare it with what is written there.

    Args:
        folder: Made if missing.
        settings: All that decides the pixels of its pictures but what tells them apart; JSON values.

    Raises:
        ValueError: If the folder's pictures are of other settings (one is named), or its record cannot be read.
    """
    record, text = folder / RECORD, json.dumps(settings, indent=2, sort_keys=True) + "\n"
    if not record.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(record, text.encode())
        return
    try:
        before = dict(_flat(json.loads(record.read_text(encoding="utf-8"))))
    except ValueError as error:
        raise ValueError(f"{str(record)!r} cannot be read ({error}); take another folder.") from error
    now = dict(_flat(json.loads(text)))
    for key in sorted(before.keys() | now.keys()):
        if key not in before or key not in now or before[key] != now[key]:
            was, given = (json.dumps(values[key]) if key in values else "not set" for values in (before, now))
            raise ValueError(
                f"{str(folder)!r} holds pictures of other settings: {key} was {was}, now it is {given}. Take another "
                "folder."
            )


def write_picture(path: Path, image: Float[Tensor, "3 height width"], told: Mapping[str, str]) -> None:
    """Write an image as a PNG file, whole or not at all.

    Args:
        path: Its folder is made if missing.
        image: In [0, 1]; rounded to 8 bits.
        told: Texts that go into the file, by keyword (Latin letters, at most 79).
    """
    info = PngInfo()
    for keyword, text in told.items():
        info.add_itxt(keyword, text)
    to_pil_image(to_uint8(image).cpu()).save(file := io.BytesIO(), format="PNG", pnginfo=info)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, file.getvalue())


def read_told(path: Path) -> dict[str, str]:
    """The texts in a PNG file.

    Args:
        path: The file.

    Returns:
        Texts by keyword.

    Raises:
        ValueError: If it is no PNG file.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            assert isinstance(picture, PngImageFile)
            return {keyword: str(text) for keyword, text in picture.text.items()}
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a PNG file: {error}") from error


def read_pictures(paths: Sequence[Path]) -> Float[Tensor, "pictures 3 height width"]:
    """Pictures of one size.

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
            with Image.open(path) as picture:
                pixels = torch.from_numpy(np.array(picture.convert("RGB")))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{str(path)!r} cannot be read: {error}. Delete it to have it drawn again.") from error
        images.append(from_uint8(pixels.permute(2, 0, 1)))
    return torch.stack(images)


def _write(path: Path, content: bytes) -> None:
    """Under another name first, so that a run that is killed leaves no half of a file."""
    half = path.with_name(f"{path.name}.part")
    half.write_bytes(content)
    half.replace(path)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Plain values by dotted key; ``init_args`` left out, as on the command line."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _flat(child, key if name == "init_args" else f"{key}.{name}".removeprefix("."))
    else:
        yield key, value
