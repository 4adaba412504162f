"""Files and folders that are whole or not there: written beside under a name of this process alone, then renamed."""

import fnmatch
import os
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = ".part"
"""How the names of unfinished files and folders end; they begin with a dot."""


def unfinished_path(path: Path) -> Path:
    """Return a hidden path beside ``path``, with host and process id: machines may share ids and folders."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}{UNFINISHED}")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a new path beside what is replaced, and ``put`` what is there in its place if the body does not raise."""
    unfinished = unfinished_path(path)
    remove(unfinished)
    try:
        yield unfinished
        put(unfinished, path)
    finally:
        remove(unfinished)


def put(unfinished: Path, path: Path) -> None:
    """Let a file or folder take the place of what was there; a folder's is empty for a moment between two renames."""
    old = unfinished_path(path.with_name(f"{path.name}.old"))
    if path.is_dir():
        remove(old)
        os.replace(path, old)
    os.replace(unfinished, path)
    remove(unfinished)  # it is still there if both were links to one file
    remove(old)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; a run that is killed leaves the old one or the new one, no half of it."""
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content)


def save_tensors(tensors: Mapping[str, Any], path: Path) -> None:
    """Write a safetensors file, readable as the umask says: safetensors itself lets nobody else read its files."""
    from safetensors.torch import save_file  # it imports torch

    with written_whole(path) as unfinished:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        save_file(dict(tensors), unfinished)
        unfinished.chmod(mode)


def files_of(path: Path) -> list[Path]:
    """Return a file, or all files in a folder, sorted."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(folder: Path, *, others: Collection[str] = ()) -> None:
    """Remove what killed processes left unfinished in a folder, not in those inside that hold one of ``others``."""
    for root, folders, files in os.walk(folder):
        unfinished = fnmatch.filter([*folders, *files], f".*.[0-9]*{UNFINISHED}")
        for name in unfinished:
            remove(Path(root, name))
        foreign = (name for name in folders if any(Path(root, name, other).exists() for other in others))
        folders[:] = sorted(set(folders).difference(unfinished, foreign))
