"""Failures that cost no run are told once, counted, and name what to look at."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from realgen.failures import Contained, contain, disk_failure, failure_counts, report_failure


class Part:
    """Fails every time but the third."""

    calls = 0

    def work(self, number: int) -> int:
        self.calls += 1
        if self.calls != 3:
            raise RuntimeError("no server\nand no answer")
        return number


def test_the_first_error_is_told_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    part = Part()
    contain(part, ["work", "missing"])
    assert [part.work(number) for number in range(4)] == [None, None, 2, None]
    (record,) = caplog.records
    told = record.getMessage()
    assert told.startswith(
        "Part failed, and the run goes on without its work: RuntimeError: no server (test_failures.py"
    )
    assert failure_counts([part, Part()]) == ["Part: work failed 3 times"]


def test_an_error_is_raised_where_the_user_wants_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALGEN_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="no server"):
        Contained(Part(), "work")(1)


def test_what_ends_a_process_is_not_contained() -> None:
    class Leaving:
        def work(self) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        Contained(Leaving(), "work")()


def write(path: Path, content: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(content)


def test_a_full_disk_is_told_with_its_path() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError, match="No space left") as told:
        write(full, b"x")
    assert told.value.filename is None
    assert disk_failure(told.value) == f"/dev/full: {os.strerror(errno.ENOSPC)}"
    with pytest.raises((OSError, RuntimeError)) as saved:
        torch.save({"weights": torch.zeros(1000)}, full)
    assert "/dev/full" in (disk_failure(saved.value) or str(saved.value))


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(2, "gone", "name"), OSError("no route")])
def test_other_errors_say_it_themselves(error: Exception) -> None:
    assert disk_failure(error) is None


def test_the_line_and_the_effect_are_named(caplog: pytest.LogCaptureFixture) -> None:
    report_failure("callbacks.mine", ValueError(), "nothing is drawn")
    assert caplog.messages == ["callbacks.mine failed, and nothing is drawn: ValueError"]


def test_a_failure_of_the_disk_that_names_its_path_is_told_as_it_is(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        raise ValueError(f"run_dir: cannot make {path}: No space left on device.")

    with pytest.raises(ValueError, match="cannot make") as error:
        make(tmp_path / "x")
    assert disk_failure(error.value) is None
