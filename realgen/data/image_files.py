"""Image files in folders: found, split into training and validation, and read."""

import contextlib
import hashlib
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Literal, NamedTuple, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from realgen.image_decoding import FORMATS, HEIC, decode_image, how_to_read

SUFFIXES = tuple(FORMATS)
"""Of what counts as an image, in lower case."""
LABELS = {"real": "0_real", "generated": "1_fake"}
"""Names of the folders, at any depth, in which data sets of detectors keep their two classes side by side."""
_LOGGER = logging.getLogger(__name__)
SplitBy = Literal["name", "content"]


class ImageFile(NamedTuple):
    """One file in a folder of images."""

    path: Path
    name: str
    """Its path inside the folder, with ``/``, without ``LABELS``."""


def check_folders(folders: str | Sequence[str | Path], *, argument: str) -> tuple[Path, ...]:
    """Return the paths of one folder or several; ValueError, naming ``argument``, if one is no folder."""
    paths = tuple(Path(folder) for folder in ([folders] if isinstance(folders, str) else folders))
    if not paths:
        raise ValueError(f"{argument} must name at least one folder, got none.")
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{argument} must be a folder of images, {str(path)!r} is none.")
    return paths


def find_images(folders: str | Sequence[str | Path], *, argument: str) -> list[ImageFile]:
    """List the images of folders and of all folders in them, in an order that depends on their names alone.

    Links are followed, and each real file is listed once: under a name that is no link if it has one, else under the
    first. FIFOs, sockets and devices are no images. For an ``argument`` that ends in ``generated``, images in folders
    called ``0_real`` are left out, else those in ``1_fake``: both classes may be given the same folder. HEIC files that
    cannot be read are told of.

    Raises:
        ValueError: If a folder does not exist, cannot be listed (nor one in it), or holds no image.
    """

    def refuse(error: OSError) -> NoReturn:
        raise ValueError(f"{argument}: the folder {str(error.filename)!r} cannot be listed ({error.strerror}).")

    found: list[ImageFile] = []
    listed: set[object] = set()
    other = LABELS["real" if argument.endswith("generated") else "generated"]
    unread: list[Path] = []
    for folder in check_folders(folders, argument=argument):
        files = [each for each in _walk(folder, refuse) if other not in each[1].relative_to(folder).parts[:-1]]
        unread += [path for _, path in files if path.suffix.lower() in HEIC and not is_image(path)]
        images = [
            (linked or path.is_symlink(), _name(path, folder), path, identity)
            for linked, path in files
            if is_image(path) and (identity := _identity(path)) is not None
        ]
        if not images:
            raise ValueError(f"{argument} must hold images ({', '.join(SUFFIXES)}), {str(folder)!r} holds none.")
        new: list[ImageFile] = []
        for _, name, path, identity in sorted(images):
            if identity not in listed:
                listed.add(identity)
                new.append(ImageFile(path, name))
        found += sorted(new, key=lambda file: file.name)
    if unread:
        told = "%s: %d HEIC files, such as %s, are left out%s"
        _LOGGER.warning(told, argument, len(unread), unread[0], how_to_read(HEIC[0]))
    return found


def _name(path: Path, folder: Path) -> str:
    return "/".join(part for part in path.relative_to(folder).parts if part not in LABELS.values())


def _walk(folder: Path, refuse: Callable[[OSError], NoReturn]) -> Iterator[tuple[bool, Path]]:
    """Yield all files below a folder, each folder once, and whether a link to a folder led there."""
    seen: set[object] = set()
    roots = deque([(False, folder)])  # folders that links lead to come last, so that a link's name is not preferred
    while roots:
        linked, root = roots.popleft()
        for parent, folders, names in os.walk(root, onerror=refuse):
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders.sort()
            roots.extend((True, path) for name in folders if (path := Path(parent, name)).is_symlink())
            yield from ((linked, Path(parent, name)) for name in names)


def _identity(path: Path) -> tuple[object, ...] | None:
    """Return what all names of one file share; None for what is no regular file."""
    try:
        status = path.stat()
    except OSError:  # a link to nowhere is named where it is read
        return (str(path),)
    return (str(status.st_dev), status.st_ino) if S_ISREG(status.st_mode) else None


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def split_files(
    files: Sequence[ImageFile], share: float, *, by: SplitBy = "name", groups: Mapping[str, str] | None = None
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Set about a share of files aside for validation; return those to train on, and those aside.

    A pure function of each file, so that new files move no old one. ``name`` hashes the name without its suffix, so a
    real image and the generated image of the same name stay together; ``content`` hashes the bytes, so copies stay
    together, and reads every file once (what cannot be read goes by its name). ``groups`` are names that count as
    others, of ``group_names``, so that copies under other names stay together too.
    """
    parts: tuple[list[ImageFile], list[ImageFile]] = ([], [])
    for file in files:
        key = _digest(file) if by == "content" else None
        if key is None:
            name = _stem(file)
            key = hashlib.sha256(os.fsencode((groups or {}).get(name, name))).digest()
        parts[int.from_bytes(key[:8], "big") / 2**64 < share].append(file)
    return parts


def group_names(files: Sequence[ImageFile]) -> dict[str, str]:
    """Return for names whose files have equal content, directly or by others, the first; reads files of equal size."""
    first: dict[str, str] = {}

    def root(name: str) -> str:
        while (other := first.get(name, name)) != name:
            name = other
        return name

    for copy, original in _originals(files).items():
        low, high = sorted((root(_stem(original)), root(_stem(copy))))
        first[high] = low
    return {name: root(name) for name in first}


def check_disjoint(parts: Mapping[str, Sequence[ImageFile]]) -> None:
    """Raise ValueError if an image, or a copy of it, is in two lists of files; within one, copies are allowed."""
    owners = [(name, file) for name, files in parts.items() for file in files]
    originals = _originals([file for _, file in owners])
    firsts: dict[ImageFile, str] = {}
    for name, file in owners:
        original = originals.get(file, file)
        if (other := firsts.setdefault(original, name)) != name:
            raise ValueError(
                f"{other} and {name} must not share images: {file.path} has the content of {original.path}."
            )


def _originals(files: Sequence[ImageFile]) -> dict[ImageFile, ImageFile]:
    """Return, for each copy, the first file that has its content; only files of equal size are read."""
    sizes: dict[ImageFile, int] = {}
    for file in files:
        with contextlib.suppress(OSError):
            sizes[file] = file.path.stat().st_size
    number = Counter(sizes.values())
    firsts: dict[bytes, ImageFile] = {}
    found: dict[ImageFile, ImageFile] = {}
    for file, size in sizes.items():
        digest = _digest(file) if size and number[size] > 1 else None
        if digest is not None and (first := firsts.setdefault(digest, file)) != file:
            found[file] = first
    return found


def _digest(file: ImageFile) -> bytes | None:
    """Return the SHA-256 of a file's content; None if it cannot be read."""
    with contextlib.suppress(OSError), file.path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
    return None


def _stem(file: ImageFile) -> str:
    return file.name.removesuffix(file.path.suffix)


def check_readable(files: Sequence[ImageFile], *, purpose: str) -> None:
    """Raise ValueError if none of the files can be read; the first that can is enough."""
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
    return hashlib.sha256(os.fsencode("\n".join(file.name for file in files))).hexdigest()


def read_image(path: Path | bytes) -> Float[Tensor, "3 height width"]:
    """Read an image as [3, H, W] in [0, 1]: upright, in RGB, white where transparent; ValueError if it cannot be."""
    return torch.from_numpy(np.array(decode_image(path))).permute(2, 0, 1).float().div_(255)
