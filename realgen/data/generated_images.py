"""Generated images on disk: PNG files that hold how they were generated, in a folder for each setting."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL.PngImagePlugin import PngImageFile, PngInfo
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from realgen.data.image_files import read_image
from realgen.functional.images import to_uint8
from realgen.given_files import parse_json
from realgen.image_decoding import open_image
from realgen.whole_files import write_whole

SETTINGS_FILE = "settings.json"
"""Record of the settings that all images of a folder were generated with."""
NAMED = 3
"""Settings that a message names."""


def keep_settings(folder: Path, settings: Mapping[str, Any], *, cure: str) -> None:
    """Record what decides the pixels of all images of a folder; ValueError, with the ``cure``, if they have other."""
    check_settings(folder, settings, cure=cure)
    record = folder / SETTINGS_FILE
    if not record.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(record, (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())


def check_settings(folder: Path, settings: Mapping[str, Any], *, cure: str) -> None:
    """Raise ValueError if a folder's images were generated with other settings, null being unset; writes nothing."""
    record = folder / SETTINGS_FILE
    if not record.exists():
        return
    try:
        before = parse_json(record.read_bytes())
    except ValueError as error:
        raise ValueError(f"{str(record)!r} cannot be read ({error}). {cure}") from error
    changes = settings_changes(before, json.loads(json.dumps(settings)))
    if changes:
        raise ValueError(f"{str(folder)!r} holds images of other settings: {changes}. {cure}")


def settings_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe what differs first between two JSON trees, by key without ``init_args``; null and {} are not set."""
    changes = sorted(_changes(dict(before), dict(now)))
    more = f"; and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
    return "; ".join(changes[:NAMED]) + more


def write_image(path: Path, image: Float[Tensor, "3 height width"], texts: Mapping[str, str]) -> None:
    """Write an image in [0, 1] as an 8-bit PNG file, whole or not at all, with texts by keyword (Latin, at most 79)."""
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_itxt(keyword, text)
    to_pil_image(to_uint8(image).cpu()).save(file := io.BytesIO(), format="PNG", pnginfo=info)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getvalue())


def read_texts(path: Path) -> dict[str, str]:
    """Read the texts in a PNG file, by keyword; raise ValueError if it cannot be read as a PNG file."""
    try:
        with open_image(path, ["PNG"]) as image:
            assert isinstance(image, PngImageFile)
            return {keyword: str(text) for keyword, text in image.text.items()}
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be read as a PNG file: {error}") from error


def read_images(paths: Sequence[Path]) -> Float[Tensor, "images 3 height width"]:
    """Read images of one size, in [0, 1]; raise ValueError if one cannot be read."""
    images = []
    for path in paths:
        try:
            images.append(read_image(path))
        except ValueError as error:
            raise ValueError(f"{str(path)!r} cannot be read: {error}. Delete it to have it drawn again.") from error
    return torch.stack(images)


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
