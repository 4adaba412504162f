"""One process at a time in the folder of a run, by a lock that the system releases when the process dies."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

LOCK_FILE = ".lock"
MOUNTS = Path("/proc/self/mounts")
LOCAL_ONLY = {"nolock", "local_lock=all", "local_lock=posix", "localflock"}
"""Mount options with which a network file system tells no other machine of its locks."""


class RunLock:
    """Holds the folder of a run for this process: ``fcntl.lockf`` on ``.lock``, which names host and process.

    A lock of the process, not of the open file as ``flock``'s is: workers that it forks do not keep it when it is
    killed. NFS passes it on to other machines; a file system that has no locks, or only local ones, is told of. With
    ``shared``, others are let in that ask for a shared lock too. ValueError if another process holds the folder, or
    nothing can be written in it; it names the ``option`` that chose the folder.
    """

    def __init__(self, folder: Path, *, shared: bool = False, option: str = "run_dir") -> None:
        self.path = folder / LOCK_FILE
        self.exclusive = False
        """Whether nobody else can be in the folder."""
        self._shared, self._option = shared, option
        self._file = self._open()
        try:
            self._lock()
        except BaseException:  # Ctrl-C too: nobody could release it
            os.close(self._file)
            raise

    def release(self) -> None:
        """Give the folder back, and remove the file if nobody else can hold it; a second call does nothing."""
        if self._file >= 0:
            if self.exclusive:
                with contextlib.suppress(OSError):  # the folder may be gone, or its disk read-only by now
                    self.path.unlink()
            os.close(self._file)
            self._file = -1

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(f"{self._option}: cannot write in {self.path.parent}: {error.strerror}.") from error

    def _lock(self) -> None:
        while True:
            try:
                fcntl.lockf(self._file, (fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    content = os.pread(self._file, 1000, 0).decode(errors="replace")
                    host, pid, since = (content.split(" ", 2) + ["?"] * 3)[:3]
                    raise ValueError(
                        f"{self._option}: process {pid} on {host} works in {self.path.parent} since {since}. Wait for "
                        f"its end or stop it; or choose another --{self._option}."
                    ) from error
                self._warn(f"has no locks ({error.strerror})")
                break
            if self._is_current():
                self.exclusive = not self._shared
                break
            os.close(self._file)  # its holder has just removed it
            self._file = self._open()
        if options := local_only(self.path):
            self._warn(f"keeps its locks to this machine ({options})")
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{socket.gethostname()} {os.getpid()} {datetime.now():%Y-%m-%d %H:%M:%S}".encode(), 0)

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except FileNotFoundError:
            return False

    def _warn(self, why: str) -> None:
        sys.stderr.write(f"warning: the file system of {self.path.parent} {why}: start no second process in it.\n")


def local_only(path: Path, mounts: Path = MOUNTS) -> str:
    """Return the file system and the option by which a lock does not reach other machines; empty if none is known."""
    place, best, found = path.resolve(), -1, ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines() if mounts.exists() else ():
        _, point, kind, options, *_ = line.split(" ")
        point = point.replace(r"\040", " ")
        if place.is_relative_to(point) and len(point) >= best:
            odd = sorted(LOCAL_ONLY.intersection(options.split(",")))
            best, found = len(point), " ".join([kind, *odd]) if odd or kind.startswith("fuse.") else ""
    return found


def is_first_process(environment: Mapping[str, str]) -> bool:
    """Return whether this is the process of a job that writes: rank 0, as torchrun, SLURM or Lightning tell it."""
    rank = environment.get("RANK", environment.get("SLURM_PROCID", "0"))
    return all(
        number == "0" for number in (rank, environment.get("LOCAL_RANK", "0"), environment.get("NODE_RANK", "0"))
    )
