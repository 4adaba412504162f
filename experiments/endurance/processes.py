"""The commands as processes, as a user starts them, which can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.endurance.moments import Moment

SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
TIMEOUT = 900.0
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Negative: the signal that ended it."""
    output: str
    """Of both streams."""

    @property
    def words(self) -> str:
        """Return what it said at the end: its error, or else its last line."""
        lines = self.output.strip().splitlines() or [""]
        return next((line for line in lines if line.startswith("error")), lines[-1])[:200]


class Process(subprocess.Popen):
    """``python -m MODULE ARGUMENTS ...``.

    Args:
        command: Module and arguments.
        folder: Of its run, whose changes are counted.
        moment: When it gets a signal.
        trace: File for the seconds of all changes.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, *, moment: Moment | None = None, trace: Path | None = None
    ) -> None:
        self._output = os.memfd_create("output")  # not a pipe, which W&B's own process would keep open
        request = {"folder": str(folder), "moment": moment and asdict(moment), "trace": trace and str(trace)}
        words = [sys.executable, "-m", "experiments.endurance.moments", json.dumps(request), *command]
        streams = {"stdin": subprocess.DEVNULL, "stdout": self._output, "stderr": subprocess.STDOUT}
        super().__init__(words, env={**os.environ, **SETTINGS}, **streams)

    def finish(self) -> Ended:
        """Wait for its end; one that hangs is killed."""
        try:
            code = self.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.wait()
        with os.fdopen(self._output, "rb") as file:
            file.seek(0)
            return Ended(code, file.read().decode(errors="replace"))
