"""Where the time of an iteration goes, and its transformer calls made again alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import wraps
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from realgen.parallel import autocast_without_cache
from realgen.policies import DiffusionPolicy

PHASES = ("rollout", "reference", "update")
"""Phases that call the transformer."""


class Clock(NamedTuple):
    """Anything that only grows: seconds, or the FLOPs so far."""

    mark: Callable[[], Any]
    read: Callable[[list[Any]], list[float]]
    """Turns marks into numbers, afterwards."""


def stopwatch(device: torch.device, *, cpu_time: bool = False) -> Clock:
    """Seconds; on a GPU by events in its stream, so that the CPU need not wait for it at each mark.

    Args:
        device: Where the work runs.
        cpu_time: On the CPU, seconds of work summed over threads, not of waiting: for a machine with other jobs.

    Returns:
        The clock.
    """
    if device.type != "cuda":
        return Clock(time.process_time if cpu_time else time.perf_counter, list)

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def read(events: list[torch.cuda.Event]) -> list[float]:
        torch.cuda.synchronize(device)
        return [events[0].elapsed_time(event) / 1000 for event in events]

    return Clock(mark, read)


class Timeline:
    """Gives what a clock counts to the innermost section that is open, so that the parts sum to the whole."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.open: list[str] = []
        self._borders: list[tuple[Any, tuple[str, ...]]] = []
        self._watches = ExitStack()

    def enter(self, name: str) -> None:
        """Open a section inside the one that is open."""
        self.open.append(name)
        self._borders.append((self.clock.mark(), tuple(self.open)))

    def leave(self) -> None:
        """Close the innermost section."""
        self.open.pop()
        self._borders.append((self.clock.mark(), tuple(self.open)))

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Make each call of an object's method, or of a function that a module imported, a section."""
        original = getattr(owner, function)

        @wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.enter(name)
            try:
                return original(*args, **kwargs)
            finally:
                self.leave()

        self._watches.enter_context(patch.object(owner, function, watched))

    def unwatch(self) -> None:
        """Put the watched methods and functions back; modules outlive a run."""
        self._watches.close()

    def take(self) -> dict[str, dict[str, float]]:
        """What each phase (second level of sections) spent in each part (innermost level); forgets it."""
        marks, paths = zip(*self._borders, strict=True)
        self._borders = []
        taken: dict[str, dict[str, float]] = {}
        for (start, end), path in zip(pairwise(self.clock.read(list(marks))), paths[:-1], strict=True):
            parts = taken.setdefault(path[1] if len(path) > 1 else "rest", {})
            part = path[-1] if len(path) > 2 else "other"
            parts[part] = parts.get(part, 0.0) + end - start
        return taken


class Call(NamedTuple):
    """One call of the transformer."""

    phase: str
    grad: bool
    shapes: str
    rows: int


class BareCalls:
    """The transformer calls of an iteration, to be made again with nothing around them."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.policy = policy
        self.calls: list[Call] = []
        self._inputs: dict[str, Any] = {}

    def record(self, phase: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the phase, the shapes and whether there is a gradient."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        shapes = str([(tensor.dtype, tuple(tensor.shape)) for tensor in tensors])
        if shapes not in self._inputs:
            self._inputs[shapes] = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        latents = args[0] if args else next(iter(kwargs.values()))  # a tensor, or a list with one for each row
        self.calls.append(Call(phase, torch.is_grad_enabled(), shapes, len(latents)))

    @property
    def rows(self) -> dict[str, int]:
        """Rows that each phase called the transformer with."""
        return {phase: sum(call.rows for call in self.calls if call.phase == phase) for phase in PHASES}

    def replay(self, clock: Clock) -> dict[str, float]:
        """Make the calls again, backward passes included, on random inputs; returns what each phase cost."""
        costs = dict.fromkeys(PHASES, 0.0)
        self._inputs = {shapes: tree_map_only(Tensor, self._fill, inputs) for shapes, inputs in self._inputs.items()}
        with autocast_without_cache(self.policy.device.type):
            for phase, calls in groupby(self.calls, lambda call: call.phase):
                with self.policy.reference() if phase == "reference" else nullcontext():
                    marks = [clock.mark()]
                    for call in calls:
                        self._make(call)
                    marks.append(clock.mark())
                start, end = clock.read(marks)
                costs[phase] += end - start
        for parameter in self.policy.trainable_parameters().values():
            parameter.grad = None
        return costs

    def _make(self, call: Call) -> None:
        args, kwargs = self._inputs[call.shapes]
        with torch.set_grad_enabled(call.grad):
            output = tree_leaves(self.policy.backbone.transformer(*args, **kwargs)[0])
        if call.grad:
            torch.autograd.backward(output, [torch.ones_like(part) for part in output])

    def _fill(self, tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        make = torch.randn_like if tensor.is_floating_point() else torch.ones_like
        return make(tensor, device=self.policy.device)


def leave(result: dict[str, Any], folder: Path | None, name: str) -> None:
    """Write a benchmark's JSON into a folder, made if need be; without one print it."""
    text = json.dumps(result, indent=2) + "\n"
    if folder is None:
        sys.stdout.write(text)
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
