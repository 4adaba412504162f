"""The lock of a run's folder, between real processes."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from realgen.run_lock import RunLock, is_first_process, local_only

HOLD = """
import sys; from pathlib import Path; from realgen.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]), shared=sys.argv[2:] == ["shared"])
print("held", flush=True)
sys.stdin.readline()
lock.release()
"""


def holder(folder: Path, *how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), *how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_by_host_and_pid_until_the_first_one_ends(tmp_path: Path) -> None:
    first = holder(tmp_path)
    who = f"run_dir: process {first.pid} on {socket.gethostname()} works in {tmp_path} since 20"
    for shared in (False, True):
        with pytest.raises(ValueError, match=who):
            RunLock(tmp_path, shared=shared)
    with pytest.raises(ValueError, match=rf"^output: process {first.pid} .* or choose another --output\.$"):
        RunLock(tmp_path, option="output")
    first.communicate("\n", timeout=60)
    assert list(tmp_path.iterdir()) == []
    lock = RunLock(tmp_path)
    assert lock.exclusive
    lock.release()
    lock.release()


def test_the_system_releases_it_when_the_process_is_killed(tmp_path: Path) -> None:
    first = holder(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    assert (tmp_path / ".lock").exists()
    RunLock(tmp_path).release()


def _fork_and_die(folder: Path, pids: multiprocessing.Queue[int]) -> None:
    lock = RunLock(folder)
    if (child := os.fork()) == 0:
        signal.pause()
    pids.put(child)
    pids.close()
    pids.join_thread()
    assert lock.exclusive
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_survives_its_killed_process_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    pids = context.Queue()
    process = context.Process(target=_fork_and_die, args=(tmp_path, pids))
    process.start()
    child = pids.get(timeout=60)
    process.join(60)
    try:
        os.kill(child, 0)  # it lives
        RunLock(tmp_path).release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_shared_locks_keep_only_exclusive_ones_out(tmp_path: Path) -> None:
    first = holder(tmp_path, "shared")
    second = RunLock(tmp_path, shared=True)
    assert not second.exclusive
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    third = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "works in" in third.stderr
    second.release()
    first.communicate("\n", timeout=60)
    RunLock(tmp_path).release()


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock = RunLock(tmp_path)
    assert not lock.exclusive
    assert capsys.readouterr().err == (
        f"warning: the file system of {tmp_path} has no locks (No locks available): start no second process in it.\n"
    )
    lock.release()


def test_a_folder_in_which_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"run_dir: cannot write in {tmp_path}/none: No such file or directory"):
        RunLock(tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("rw,vers=4.2,local_lock=none", ""),
        ("rw,vers=3,nolock,local_lock=all", "nfs local_lock=all nolock"),
    ],
)
def test_a_mount_whose_locks_stay_on_one_machine_is_known(options: str, told: str, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    blank = str(tmp_path / "my disk").replace(" ", r"\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {blank} nfs {options} 0 0\n")
    assert local_only(tmp_path / "my disk" / "run", mounts) == told
    assert local_only(tmp_path / "elsewhere", mounts) == ""


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
    ],
)
def test_rank_zero_is_the_one_that_writes(environment: dict[str, str], first: bool) -> None:
    assert is_first_process(environment) is first
