"""Windows of a few steps whose start changes: at random, or over the run."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from realgen.checks import check_at_least
from realgen.policies.step_window import StepWindow


class RandomWindow(StepWindow):
    """A window of fixed size whose start is drawn afresh for every prompt and rollout (Flow-GRPO-Fast).

    The published RealGen drew the start once per rank and kept it for the whole run, so that some steps were never
    trained; here every start between the bounds comes up.

    Args:
        size: Stochastic steps, at least 1.
        start_min: First step at which the window may start.
        start_max: Last step at which it may start, included; ``None``: wherever the window still fits.
    """

    def __init__(self, size: int, start_min: int = 0, start_max: int | None = None) -> None:
        self.size, self.start_min, self.start_max = size, start_min, start_max
        check_at_least(1, size=size)
        if start_min < 0 or (start_max is not None and start_max < start_min):
            raise ValueError(
                f"start_min and start_max must satisfy 0 <= start_min <= start_max, got {start_min}, {start_max}."
            )

    def decisions(self, num_steps: int) -> int:
        """Return ``size``."""
        return self.size

    def starts(self, num_steps: int) -> range:
        """Return the steps from ``start_min`` to ``start_max``."""
        last = num_steps - self.size if self.start_max is None else self.start_max
        return range(self.start_min, last + 1)

    def sample(
        self, num_prompts: int, num_steps: int, *, iteration: int, generator: torch.Generator
    ) -> Int[Tensor, " prompts"]:
        """Draw uniformly from ``starts``, each prompt for itself."""
        starts = self.starts(num_steps)
        return torch.randint(
            starts.start, starts.stop, (num_prompts,), generator=generator, device=generator.device, dtype=torch.long
        )


class SlidingWindow(StepWindow):
    """A window that moves from the first step to the last over the run (MixGRPO, arXiv:2507.21802).

    start = min(stride * (iteration // interval), num_steps - size): early, coarse decisions are trained before late,
    fine ones. All prompts of an iteration share it. Approximate: an iteration trains the steps of one window only.

    Args:
        size: Stochastic steps, at least 1; the paper finds 4 enough.
        interval: Iterations that the window stays at one start, at least 1.
        stride: Steps by which it then moves on, at least 1.
        roll_back: Whether it starts again at the first step after the end; otherwise it stays at the end.
    """

    def __init__(self, size: int, interval: int, stride: int = 1, roll_back: bool = False) -> None:
        check_at_least(1, size=size, interval=interval, stride=stride)
        self.size, self.interval, self.stride, self.roll_back = size, interval, stride, roll_back

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
        last, move = num_steps - self.size, iteration // self.interval
        if self.roll_back:
            move %= -(-last // self.stride) + 1
        start = min(move * self.stride, last)
        return torch.full((num_prompts,), start, dtype=torch.long, device=generator.device)
