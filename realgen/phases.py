"""The phases of an iteration: which one raised an error, how long each takes, and the memory of all."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_NAME = "realgen_phase"


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Note a phase on each error that is raised inside, unless a phase inside this one has done so.

    A context manager and a decorator of functions. The note survives a thread: the error is raised again by the caller
    who waits for it.
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


class PhaseClock:
    """Adds up seconds by phase; waits for the device at each border, so that the time lands in the right phase."""

    def __init__(self, device: torch.device, *, now: Callable[[], float] = time.perf_counter) -> None:
        self.device = device
        self.now = now
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what happens inside, and note the phase on an error of it."""
        start = self._time()
        with phase(name):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._time() - start

    def statistics(self) -> dict[str, float]:
        """Return ``seconds/<phase>``; on a GPU also ``gpu_peak_gib``, the peak memory of the run so far."""
        found = {f"seconds/{phase}": seconds for phase, seconds in self.seconds.items()}
        if self.device.type == "cuda":
            found["gpu_peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return found

    def _time(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.now()
