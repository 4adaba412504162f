"""A window of a few steps that moves over the run."""

import math
from bisect import bisect
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from realgen.checks import check_at_least
from realgen.policies.step_window import StepWindow

Dwell = Literal["constant", "linear", "exponential"]
DECAY, DECAYS_FROM = 0.1, 13
"""MixGRPO's exponential schedule: the stay falls by exp(-0.1) a step, from the thirteenth on."""


class SlidingWindow(StepWindow):
    """A window that moves from the first step to the last over the run (MixGRPO, arXiv:2507.21802).

    It starts at step 0, stays for ``interval`` iterations and moves on by ``stride``, to num_steps - size at most:
    early, coarse decisions are trained before late, fine ones. All prompts of an iteration share it. Approximate: an
    iteration trains the steps of one window only.

    Args:
        size: Stochastic steps, at least 1; the paper finds 4 enough.
        interval: Iterations that the window stays at one start, at least 1.
        stride: Steps by which it then moves on, at least 1.
        roll_back: Whether it starts again at the first step after the end; otherwise it stays at the end.
        dwell: How long it stays as it moves on: ``constant``; ``linear``, falling from ``interval`` at the first start
            to ``shortest`` at the last; ``exponential``, ceil(interval exp(-0.1 max(0, start - 13))).
        shortest: Iterations at the last start of a ``linear`` dwell, 1 to ``interval``.
    """

    def __init__(
        self,
        size: int,
        interval: int,
        stride: int = 1,
        roll_back: bool = False,
        dwell: Dwell = "constant",
        shortest: int = 1,
    ) -> None:
        check_at_least(1, size=size, interval=interval, stride=stride, shortest=shortest)
        if shortest > interval:
            raise ValueError(f"shortest must be at most interval={interval}, got {shortest}.")
        self.size, self.interval, self.stride, self.roll_back = size, interval, stride, roll_back
        self.dwell, self.shortest = dwell, shortest

    def decisions(self, num_steps: int) -> int:
        """Return ``size``."""
        return self.size

    def starts(self, num_steps: int) -> range:
        """Return every step at which the window still fits."""
        return range(num_steps - self.size + 1)

    def sample(
        self, num_prompts: int, num_steps: int, *, iteration: int, generator: torch.Generator
    ) -> Int[Tensor, " prompts"]:
        """Return one start for all prompts; it depends on the iteration alone."""
        last = num_steps - self.size
        starts = [*range(0, last, self.stride), last]
        left = list(accumulate(self._stay(start, last) for start in starts))  # the iterations at which it moves on
        start = starts[min(bisect(left, iteration % left[-1] if self.roll_back else iteration), len(starts) - 1)]
        return torch.full((num_prompts,), start, dtype=torch.long, device=generator.device)

    def _stay(self, start: int, last: int) -> int:
        match self.dwell:
            case "constant":
                return self.interval
            case "linear":
                return round(self.interval - (self.interval - self.shortest) * start / max(last, 1))
            case "exponential":
                return math.ceil(self.interval * math.exp(-DECAY * max(0, start - DECAYS_FROM)))
