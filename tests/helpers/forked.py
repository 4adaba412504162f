"""A process of its own, forked from the tests': PyTorch and its like, which take ten seconds to import, are there."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO, Any


def forked(
    call: Callable[[], Any], folder: Path, *, environment: Mapping[str, str] | None = None, given: str = ""
) -> CompletedProcess[str]:
    """Call something in a child that works in a folder, and return how the child ended and what it said.

    ``environment`` replaces this process's, and ``given`` stands on the child's standard input.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as answers,
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as error,
    ):
        answers.write(given)
        answers.seek(0)
        code = Fork(call, folder, [answers, out, error], environment=environment).wait()
        out.seek(0)
        error.seek(0)
        return CompletedProcess([], code, out.read(), error.read())


class Fork:
    """A child that makes a call and ends; its standard streams are three files.

    Its exit code is what the call returns, or that of the error that it raises; minus the number of the signal that
    killed it.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        folder: Path,
        streams: Sequence[IO[str]],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                _settle(folder, streams, environment)
                code = int(call() or 0)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            finally:
                if sys.exc_info()[1] is not None:
                    traceback.print_exc()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)  # what the tests have for the end of their own process is not the child's to do

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self._code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code

    def wait(self, patience: float = float("inf")) -> int:
        """Its exit code, when it has ended; AssertionError if that takes more than ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while self.poll() is None:
            assert time.monotonic() < deadline, f"process {self.pid} still runs after {patience} seconds"
            time.sleep(0.02)
        return self._code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _settle(folder: Path, streams: Sequence[IO[str]], environment: Mapping[str, str] | None) -> None:
    """Leave what pytest has put in the place of the working directory, the environment and the standard streams."""
    os.chdir(folder)
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
