"""Tars made member by member with the standard library, independently of ``write_shards``."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest


@pytest.fixture
def write_tar() -> Callable[[Path, Mapping[str, bytes]], Path]:
    def write(path: Path, members: Mapping[str, bytes]) -> Path:
        with tarfile.open(path, "w") as tar:
            for name, data in members.items():
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
        return path

    return write
