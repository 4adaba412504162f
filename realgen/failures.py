"""Failures that cost no run: the part that failed is named in a line, and the run goes on without what it does."""

import io
import logging
import os
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from realgen.checks import first_line, printable

PLACE = "_config_place"
"""Attribute in which a component remembers its place in the config."""
_LOGGER = logging.getLogger(__name__)
_PATH_NAMES = ("path", "filepath", "urlpath", "filename", "file", "f")
_DISK_SIGNS = ("No space left", "Read-only file system", "File too large", "inline_container", "Disk quota")
"""In the messages of libraries that write files without Python's; the one of torch.save does not say the reason."""


def wants_traceback() -> bool:
    """Return whether the user wants errors raised, with whole tracebacks (``REALGEN_TRACEBACK=1``)."""
    return os.environ.get("REALGEN_TRACEBACK", "0") not in ("", "0")


def part_name(part: object) -> str:
    """Return the dotted key of a component of the config; its class where it is none."""
    place = getattr(part, PLACE, None)
    return type(part).__name__ if place is None else place.key


def describe(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"


def disk_failure(error: BaseException) -> str | None:
    """Return path and reason of a failure of the disk whose own message lacks the path; None for other errors.

    A write to an open file says only what went wrong; the path stands in the variables of the functions that wrote.
    """
    reason = describe(error).partition(": ")[2]
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        reason = error.strerror or reason
    elif isinstance(error, OSError) or not any(sign in reason for sign in _DISK_SIGNS):
        return None
    elif "inline_container" in reason:
        reason = "torch cannot write it; is the disk full?"
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for name, value in frame.f_locals.items():
            if isinstance(value, io.IOBase):
                value = getattr(value, "name", None)
            if isinstance(value, Path) or (isinstance(value, str) and name in _PATH_NAMES):
                return None if str(value) in reason else f"{value}: {reason}"
    return None


def report_failure(name: str, error: Exception, effect: str) -> None:
    """Log in one line that a part failed, why and where, and that the run goes on.

    ``effect`` is what the run does without, after "failed, and". With ``REALGEN_TRACEBACK=1`` the error is raised
    again.
    """
    if wants_traceback():
        raise error
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    why = printable(disk_failure(error) or describe(error))
    _LOGGER.error("%s failed, and %s: %s%s", name, effect, why, where)


class Contained:
    """A method of a callback or logger whose errors cost no run: the first one is told, all are counted."""

    def __init__(self, part: object, name: str) -> None:
        self.part, self.name = part, name
        self.method: Callable[..., Any] = getattr(part, name)
        self.failures = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the method returns; None after an error."""
        try:
            return self.method(*args, **kwargs)
        except Exception as error:  # a part of a user may raise anything
            self.failures += 1
            if self.failures == 1 or wants_traceback():
                report_failure(part_name(self.part), error, f"the run goes on without its {self.name}")
            return None


def contain(part: object, methods: Iterable[str]) -> None:
    """Replace methods of one object by ones whose errors cost no run."""
    for name in methods:
        if callable(getattr(part, name, None)):
            setattr(part, name, Contained(part, name))


def failure_counts(parts: Iterable[object]) -> list[str]:
    """Return a line for each contained method that failed more than once."""
    contained = [value for part in parts for value in vars(part).values() if isinstance(value, Contained)]
    return [f"{part_name(c.part)}: {c.name} failed {c.failures} times" for c in contained if c.failures > 1]
