from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from realgen.whole_files import (
    put,
    remove_unfinished,
    save_tensors,
    unfinished_path,
    write_whole,
    written_whole,
)


def test_the_name_of_an_unfinished_file_is_this_process_s_own(tmp_path: Path) -> None:
    name = unfinished_path(tmp_path / "a.csv").name
    assert name == f".a.csv.{socket.gethostname()}.{os.getpid()}.part"


def test_files_and_folders_take_the_place_of_old_ones(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_whole(tmp_path / "file", content)
        with written_whole(tmp_path / "folder") as folder:
            folder.mkdir()
            (folder / content.decode()).touch()
        assert (tmp_path / "file").read_bytes() == content
        assert [path.name for path in (tmp_path / "folder").iterdir()] == [content.decode()]
        assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_a_second_name_of_a_file_takes_its_place_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"weights")
    unfinished = unfinished_path(path)
    os.link(path, unfinished)
    put(unfinished, path)  # a rename between two names of one file does nothing
    assert [each.name for each in tmp_path.iterdir()] == ["best.ckpt"]
    assert path.read_bytes() == b"weights"


def test_tensors_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for umask in (0o022, 0o027):
        before = os.umask(umask)
        try:
            save_tensors({"a": torch.ones(2)}, path)
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert load_file(path)["a"].tolist() == [1.0, 1.0]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_leaves_the_old_one_and_nothing_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    write_whole(path, b"old")

    def fail() -> None:
        with written_whole(path) as unfinished:
            if kind == "folder":
                unfinished.mkdir()
            (unfinished / "x" if kind == "folder" else unfinished).write_bytes(b"half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_at_any_depth(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from realgen.whole_files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as path:\n"
        "    path.mkdir(parents=True); (path / 'x').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", code, str(tmp_path / "run" / "lora")]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "run").iterdir())) == 1
    (tmp_path / "run" / "notes.part").touch()  # nobody's but the user's
    remove_unfinished(tmp_path)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.part"]
