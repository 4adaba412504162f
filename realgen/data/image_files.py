"""Image files in folders: found, split into training and validation, and read."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from realgen.data.image_decoding import decode_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Of what counts as an image, in lower case."""
SplitBy = Literal["name", "content"]


class ImageFile(NamedTuple):
    """One file in a folder of images."""

    path: Path
    """Full path."""
    name: str
    """Its path inside the folder, with ``/``."""


def check_folders(folders: str | Sequence[str | Path], *, argument: str) -> tuple[Path, ...]:
    """Raise ValueError for folders that do not exist.

    Args:
        folders: One path or several.
        argument: Their name in the message.

    Returns:
        Their paths.

    Raises:
        ValueError: If there is none, or one is no folder.
    """
    paths = tuple(Path(folder) for folder in ([folders] if isinstance(folders, str) else folders))
    if not paths:
        raise ValueError(f"{argument} must name at least one folder, got none.")
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{argument} must be a folder of images, {str(path)!r} is none.")
    return paths


def find_images(folders: str | Sequence[str | Path], *, argument: str) -> list[ImageFile]:
    """List the images of folders and of all folders in them, in an order that depends on their names alone.

    Args:
        folders: One path or several.
        argument: Their name in the message.

    Returns:
        Files, folder by folder.

    Raises:
        ValueError: If a folder does not exist, cannot be listed (nor one in it), or holds no image.
    """

    def refuse(error: OSError) -> NoReturn:
        raise ValueError(f"{argument}: the folder {str(error.filename)!r} cannot be listed ({error.strerror}).")

    found: list[ImageFile] = []
    for folder in check_folders(folders, argument=argument):
        walk = os.walk(folder, onerror=refuse, followlinks=True)
        paths = (Path(parent, name) for parent, _, names in walk for name in names)
        images = [ImageFile(path, path.relative_to(folder).as_posix()) for path in paths if is_image(path)]
        if not images:
            raise ValueError(f"{argument} must hold images ({', '.join(SUFFIXES)}), {str(folder)!r} holds none.")
        found += sorted(images, key=lambda file: file.name)
    return found


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def split_files(
    files: Sequence[ImageFile], share: float, *, by: SplitBy = "name"
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Set some files aside for validation: a pure function of each file, so that new files move no old one.

    Args:
        files: To be split.
        share: About how much is set aside, 0 to 1.
        by: ``name`` hashes the name without its suffix, so a real image and the generated image of the same name stay
            together; ``content`` hashes the bytes, so copies stay together, and reads every file once (what cannot be
            read goes by its name).

    Returns:
        Files to train on, and files to validate on.

    Example:
        >>> files = [ImageFile(Path(name), name) for name in ("a.png", "b.png", "a.jpg", "c.png")]
        >>> [[file.name for file in part] for part in split_files(files, 0.5)]
        [['a.png', 'a.jpg'], ['b.png', 'c.png']]
    """
    parts: tuple[list[ImageFile], list[ImageFile]] = ([], [])
    for file in files:
        place = int.from_bytes(hashlib.sha256(_key(file, by)).digest()[:8], "big") / 2**64
        parts[place < share].append(file)
    return parts


def _key(file: ImageFile, by: SplitBy) -> bytes:
    if by == "content":
        with contextlib.suppress(OSError):
            return file.path.read_bytes()
    return file.name.removesuffix(file.path.suffix).encode()


def check_readable(files: Sequence[ImageFile], *, purpose: str) -> None:
    """Raise ValueError if none of the files can be read; the first that can is enough.

    Args:
        files: To be looked at.
        purpose: How the message calls them.

    Raises:
        ValueError: If none is an image that can be read.
    """
    first = ""
    for file in files:
        try:
            read_image(file.path)
        except ValueError as error:
            first = first or f"{file.path}: {error}"
        else:
            return
    raise ValueError(f"none of the {len(files)} {purpose} can be read; first: {first}")


def digest(files: Sequence[ImageFile]) -> str:
    """SHA-256 of all names in order: equal where two ranks found the same files."""
    return hashlib.sha256("\n".join(file.name for file in files).encode()).hexdigest()


def read_image(path: Path) -> Float[Tensor, "3 height width"]:
    """Read an image file, upright and in RGB, white where it is transparent, in [0, 1].

    Args:
        path: The file.

    Returns:
        [3, H, W].

    Raises:
        ValueError: If the file cannot be read or decoded.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the file cannot be read ({error.strerror})") from error
    return torch.from_numpy(np.array(decode_image(data))).permute(2, 0, 1).float() / 255
