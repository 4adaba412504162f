"""The index of a sharded checkpoint is read without running what is in it."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from realgen.strategies.checkpoint import IndexReader, read_folder, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    state = {0: {"exp_avg": torch.ones(3, 4), "step": torch.tensor(3.0)}}
    checkpoint = {
        "state_dict": {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones((), dtype=torch.bfloat16)},
        "optimizer_states": [{"state": state, "param_groups": []}],
        "iteration": 7,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a process group, which one process does not need
        write_folder(checkpoint, tmp_path / "last.ckpt", first=True)
    return tmp_path / "last.ckpt"


def empty(key: str, size: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(size, dtype=dtype)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_what_was_written_is_read(folder: Path) -> None:
    found = read_folder(folder, empty)
    assert found["iteration"] == 7
    assert torch.equal(found["state_dict"]["a"], torch.arange(12.0).reshape(3, 4))
    assert found["optimizer_states"][0]["state"][0]["step"] == 3


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def rewrite(folder: Path, change: Callable[[Any], Any]) -> None:
    path = folder / ".metadata"
    index = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(index) or index))


@pytest.mark.attack("checkpoints", "code in a sharded checkpoint's index")
@pytest.mark.parametrize("where", ["in place of it", "planner data", "an entry", "a file's name"])
def test_code_in_the_index_is_not_run(where: str, folder: Path) -> None:
    code = Code(f"touch {folder}/ran")

    def change(index: Any) -> Any:
        match where:
            case "in place of it":
                return code
            case "planner data":
                index.planner_data = code
            case "an entry":
                index.state_dict_metadata["weights/a"] = code
            case "a file's name":
                next(iter(index.storage_data.values())).relative_path = code

    rewrite(folder, change)
    with pytest.raises(ValueError, match=r"is no index of a sharded checkpoint: it asks for (posix|nt)\.system"):
        read_folder(folder, empty)
    assert not (folder / "ran").exists()


@pytest.mark.attack("checkpoints", "an index of more than its files hold, of other files, or of pickles")
@pytest.mark.parametrize("how", ["terabytes", "bytes", "files elsewhere", "absolute file", "no file"])
def test_an_index_that_lies_is_refused(how: str, folder: Path) -> None:
    (folder.parent / "other").write_bytes(bytes(100_000))

    def change(index: Any) -> None:
        stored = next(iter(index.storage_data.values()))
        match how:
            case "terabytes":
                index.state_dict_metadata["weights/a"].size = torch.Size([2**40, 4])
            case "bytes":
                index.state_dict_metadata["weights/a"] = BytesStorageMetadata()
            case "files elsewhere":
                stored.relative_path = "../other"
            case "absolute file":
                stored.relative_path = str(folder / stored.relative_path)
            case "no file":
                stored.relative_path = "gone"

    rewrite(folder, change)
    with pytest.raises(ValueError, match="is no index of a sharded checkpoint"):
        read_folder(folder, empty)


@pytest.mark.attack("checkpoints", "an index that is cut off, missing or of flipped bytes")
def test_a_broken_index_is_named(folder: Path) -> None:
    path = folder / ".metadata"
    whole = path.read_bytes()
    for number in range(0, len(whole), 7):
        path.write_bytes(whole[:number])
        with pytest.raises(ValueError, match=r"metadata' is no index of a sharded checkpoint"):
            IndexReader(folder).read_metadata()
    path.unlink()
    with pytest.raises(ValueError, match="No such file"):
        IndexReader(folder).read_metadata()


@pytest.mark.attack("checkpoints", "an index of ten bytes that takes gigabytes")
def test_a_place_in_the_memo_takes_no_memory_for_those_before_it(folder: Path) -> None:
    (folder / ".metadata").write_bytes(b"\x80\x04Nr" + struct.pack("<I", 2**23) + b".")
    tracemalloc.start()
    with pytest.raises(ValueError, match="is no index of a sharded checkpoint"):
        IndexReader(folder).read_metadata()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22
