"""The phase of an iteration in which an error was raised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_NAME = "realgen_phase"


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Note a phase on each error that is raised inside, unless a phase inside this one has done so.

    A context manager and a decorator of functions. The note survives a thread: the error is raised again by the caller
    who waits for it.

    Args:
        name: Of the phase.

    Example:
        >>> @phase("decoding")
        ... def decode():
        ...     raise MemoryError
        >>> try:
        ...     with phase("rollout"):
        ...         decode()
        ... except MemoryError as error:
        ...     phase_of(error)
        'decoding'
    """
    try:
        yield
    except BaseException as error:  # noted and raised again
        if phase_of(error) is None:
            setattr(error, _NAME, name)
        raise


def phase_of(error: BaseException) -> str | None:
    """Return the innermost phase in which an error was raised; None outside of all."""
    return getattr(error, _NAME, None)
