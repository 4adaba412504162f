"""A window of a few steps that starts at random."""

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
