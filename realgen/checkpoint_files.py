"""Checkpoints on disk: their names, checksums, and what they say of themselves without their tensors.

Beside each checkpoint, a file or the folder of a sharded one, lies its SHA-256 in ``NAME.sha256``; one without it, as
of earlier versions, is only held against the checksums that ``torch.save`` writes inside. An export says in ``RECORD``
of which iteration it is.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from realgen.checks import first_line
from realgen.whole_files import files_of, put, remove, unfinished_path, write_whole

FOLDER = "checkpoints"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
META = "meta.pt"
"""File of a sharded checkpoint's folder with everything that is no tensor."""
KEYS = ("state_dict", "loops", "global_step")
"""What every checkpoint has."""
RECORD = "export.json"
"""File in an export: of which iteration it is, whether of averaged weights, and how long its files are."""
_SHA256 = re.compile("^[0-9a-f]{64}(?=  )", re.MULTILINE)


def install(unfinished: Path, path: Path, *, previous: Path | None = None) -> None:
    """Put a checkpoint that was just written beside its place into it, once what is on the disk is verified.

    The one that is replaced is kept as ``previous``. Killed at any moment, ``path`` is the old or the new file, with a
    checksum that holds; a folder is missing for a moment between two renames, in which ``previous`` is there.
    ValueError if what was written cannot be read back.
    """
    for file in files_of(unfinished):
        with file.open("rb") as opened:
            os.fsync(opened)  # or a lost machine may keep the new name and lose the bytes
    if unfinished.is_file():
        _check_records(unfinished, path)
    steps = [(unfinished, path, [checksum(unfinished)])]
    if previous is not None and path.exists():
        # Behind the new one, except for the first time: were the old one damaged, the one before must not go first.
        steps.insert(int(previous.exists()), (_copy(path, previous), previous, _known(path)))
    for step in steps:
        _replace(*step)


def keep_copy(path: Path, copy: Path) -> None:
    """Keep a checkpoint under a second name, without a second copy of its bytes where the file system has links."""
    _replace(_copy(path, copy), copy, _known(path))


def check_checkpoint(path: Path, *, verify: bool = True) -> dict[str, Any]:
    """Verify a checkpoint, a file or a folder, and return what it says without its tensors.

    Of a file, the tensors have shapes and no values; of a folder, they are left out. ``verify`` reads all of it, and
    compares the checksums; once per job is enough.

    Raises:
        ValueError: If it is damaged, or no checkpoint.
    """
    known = _known(path)
    if verify and known and checksum(path) not in known:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one in {_sums(path)}.")
    if verify and not known and path.is_file():
        _check_records(path, path)
    file = path / META if path.is_dir() else path
    try:
        told = torch.load(file, map_location="meta", weights_only=True, mmap=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        cause = first_line(error).split(". ")[0] if isinstance(error, OSError) else "its contents are unknown"
        raise ValueError(f"{path} is damaged, or no checkpoint of realgen.fit: {cause}.") from error
    missing = [key for key in KEYS if not isinstance(told, dict) or key not in told]
    if missing:
        raise ValueError(f"{path} is no checkpoint of realgen.fit: it has no {missing[0]}.")
    return told


def finished_iterations(told: Mapping[str, Any]) -> int:
    """Return the iterations that a checkpoint's run has done; of a foreign module, its optimizer steps."""
    return int(told.get("iteration", told["global_step"]))


def write_record(export: Path, *, iteration: int, averaged: bool) -> None:
    """Write ``RECORD`` into the folder of a finished export, and let the same people read all of its files."""
    files = {str(file.relative_to(export)): file.stat().st_size for file in files_of(export)}
    record = {"iteration": iteration, "weights": "ema" if averaged else "live", "files": files}
    (export / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
    for file in files_of(export):  # safetensors lets nobody else read its files, whatever the umask is
        file.chmod((export / RECORD).stat().st_mode)


def exported_iteration(place: Path) -> int | None:
    """Return the iteration of the weights in an export; None if there is none, it is not whole, or does not say so."""
    try:
        told = json.loads((place / RECORD).read_text(encoding="utf-8"))
        whole = all((place / name).stat().st_size == size for name, size in told["files"].items())
        return int(told["iteration"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def usable_checkpoints(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints of a folder that pass ``check_checkpoint``, the newest first."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            check_checkpoint(path)
        except ValueError:
            continue
        yield path


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint of a folder, or the last but one if its run was killed between the two; else None."""
    return next((path for name in (LAST, PREVIOUS) if (path := folder / name).exists()), None)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hex; of a folder, that of a list of its files with their names."""
    if path.is_dir():
        lines = [f"{checksum(file)}  {file.relative_to(path)}\n" for file in files_of(path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(path: Path, copy: Path) -> Path:
    unfinished = unfinished_path(copy)
    remove(unfinished)
    if path.is_dir():
        shutil.copytree(path, unfinished, copy_function=_link_or_copy)
    else:
        _link_or_copy(path, unfinished)
    return unfinished


def _replace(unfinished: Path, path: Path, digests: list[str]) -> None:
    """Put a checkpoint in its place; until it is there both its checksums and the old one's hold."""
    if digests:
        _write_sums(path, [*digests, *_known(path)])
    else:  # of an earlier version
        _sums(path).unlink(missing_ok=True)
    put(unfinished, path)
    if digests:
        _write_sums(path, digests)


def _write_sums(path: Path, digests: list[str]) -> None:
    write_whole(_sums(path), "".join(f"{digest}  {path.name}\n" for digest in digests).encode())


def _check_records(file: Path, name: Path) -> None:
    try:
        with zipfile.ZipFile(file) as records:
            broken = records.testzip()
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise ValueError(f"{name} is damaged, or no checkpoint of realgen.fit: {error}.") from error
    if broken is not None:
        raise ValueError(f"{name} is damaged: the checksum of {broken} inside does not hold.")


def _sums(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _known(path: Path) -> list[str]:
    """Return the checksums that a checkpoint may have; none if nothing is known of it, or the list is damaged."""
    sums = _sums(path)
    return _SHA256.findall(sums.read_text(encoding="ascii", errors="replace")) if sums.exists() else []


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
