"""A moment of a run, counted in what the run does to its files, so that it is the same one every time.

As a program it runs a command as ``python -m`` does, and sends its own process a signal; ``Process`` starts it.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGES = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
}
"""Python's audit events before a file is opened, made, moved or removed."""


@dataclass(frozen=True)
class Moment:
    """When a process gets a signal."""

    event: int
    """Number of the change to the run's folder that it comes before, >= 0."""
    delay: float
    """Seconds after that change."""
    number: int
    """Of the signal."""

    def __str__(self) -> str:
        """Return a phrase for the table."""
        return f"{signal.Signals(self.number).name} at change {self.event} + {self.delay:.2f} s"


def choose(trace: Sequence[float], generator: random.Random) -> Moment:
    """Choose a moment of an undisturbed run.

    Half of them lie right before a change of a file, where files are half done; the others anywhere in its time.

    Args:
        trace: Seconds of each change of the undisturbed run, ascending, and of its end.
        generator: Source of the choice.
    """
    number = generator.choice([signal.SIGKILL, signal.SIGTERM])
    if generator.random() < 0.5:
        return Moment(generator.randrange(len(trace) - 1), 0.0, number)
    when = generator.uniform(trace[0], trace[-1])
    event = max(index for index, seconds in enumerate(trace) if seconds <= when)
    return Moment(event, round(when - trace[event], 2), number)


def watch(folder: Path, moment: Moment | None) -> list[float]:
    """Write down when this process changes something in a folder, and send it the signal of a moment.

    Returns:
        Seconds of each change; grows as they happen.
    """
    trace: list[float] = []

    def strike(number: int) -> None:
        os.kill(os.getpid(), number)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if not os.fsdecode(arguments[0]).startswith(str(folder)) or (event == "open" and not _writes(arguments)):
            return
        trace.append(time.monotonic())
        if moment is not None and len(trace) - 1 == moment.event:
            if moment.delay == 0:
                strike(moment.number)
            else:
                timer = threading.Timer(moment.delay, strike, [moment.number])
                timer.daemon = True
                timer.start()

    sys.addaudithook(hook)
    return trace


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return any(letter in (mode or "") for letter in "wax+") or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def main() -> None:
    """Run the command behind the first argument, which says what is to be watched and done."""
    request = json.loads(sys.argv.pop(1))
    changes = watch(Path(request["folder"]), request["moment"] and Moment(**request["moment"]))
    del sys.argv[0]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    finally:
        if request["trace"] is not None:
            Path(request["trace"]).write_text(json.dumps([*changes, time.monotonic()]))


if __name__ == "__main__":
    main()
