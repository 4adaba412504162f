"""What a command shows while it works: bars on a terminal, and elsewhere, in a job's log, a line every minute."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

from realgen.run_lock import is_first_process

LINE_EVERY = 55.0
"""Seconds between two lines; a line a minute is what a user relies on."""


class _Work:
    """What is being done, and since when; one per command."""

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self.start = self.last_line = time.monotonic()
        self.ended = threading.Event()

    def print_lines(self) -> None:
        """Print a line whenever none was printed for a while, until the work has ended."""
        while not self.ended.wait(max(0.1, self.last_line + LINE_EVERY - time.monotonic())):
            now = time.monotonic()
            if now - self.last_line >= LINE_EVERY:
                self.last_line = now
                sys.stderr.write(f"at work for {(now - self.start) / 60:.0f} min: {self.doing}\n")
                sys.stderr.flush()


_work: ContextVar[_Work | None] = ContextVar("work", default=None)


def on_terminal() -> bool:
    """Return whether standard error is a terminal that can move its cursor, so that a bar may be drawn there."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


@contextmanager
def at_work(doing: str) -> Iterator[None]:
    """Print a line every minute where there is no terminal, ``now_doing`` changes it; one of several processes does."""
    if on_terminal() or not is_first_process(os.environ):
        yield
        return
    work = _Work(doing)
    token = _work.set(work)
    thread = threading.Thread(target=work.print_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        work.ended.set()
        thread.join()
        _work.reset(token)


def now_doing(doing: str, *, printed: bool = False) -> None:
    """Change what the next line will say, such as ``validation 3/6``; ``printed``: the caller has just printed one."""
    work = _work.get()
    if work is not None:
        work.doing = doing
        work.last_line = time.monotonic() if printed else work.last_line


class ProgressBar(tqdm):
    """A bar where there is a terminal; elsewhere its numbers stand in the line of every minute.

    Of ``total`` steps some were ``done`` before; ``hidden`` shows nothing.
    """

    def __init__(self, total: int, text: str = "", *, unit: str = "image", done: int = 0, hidden: bool = False) -> None:
        super().__init__(total=total, desc=text, initial=done, unit=unit, disable=hidden or not on_terminal())
        self._text = text or f"{unit}s"

    def update(self, n: Any = 1) -> Any:
        """Advance by ``n`` steps."""
        if self.disable:
            self.n += n
        now_doing(f"{self._text} {self.n}/{self.total}")
        return super().update(n)
