"""What a rollout does outside its window, where no decision is taken and nothing is scored.

Log-probabilities, and so the ratio, are about the steps inside the window alone, and those are always taken exactly.
What happens before it only chooses the states that the window starts from; what happens after it only chooses the image
that the reward sees. So the ratio at the first update is 1 with every solver. But the reward then scores images that
the deployed sampler would not have drawn: every solver but ``Euler`` is approximate, and its price is to be measured.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.policies.backbones.base import Schedule
from realgen.policies.step_window import StepWindow


class Solver:
    """How the rows of a rollout move outside their windows; chosen by config.

    It is data that the denoising loop reads, the same for all rows: on sharded weights every rank has to make the same
    calls.
    """

    every: int = 1
    """Outside the window only the steps 0, k, 2k ... call the transformer; between them a row moves on with its last
    velocity."""
    tail_steps: int = 0
    """Steps of ``finish``, after the window. With such steps a row waits at its window's end until the last window is
    over; without, all rows follow the schedule to its end."""
    dtype: torch.dtype | None = None
    """Type of the transformer's arithmetic outside the window; ``None``: that of the window."""

    def check(self, step_window: StepWindow, num_steps: int) -> None:
        """Raise ValueError for a window that covers every step, outside which there is nothing to do."""
        if step_window.decisions(num_steps) == num_steps:
            raise ValueError(
                f"solver {type(self).__name__} changes only steps outside the window, and step_window "
                f"{type(step_window).__name__} covers all {num_steps}; choose a smaller window, or solver=null."
            )

    def check_precision(self, dtype: torch.dtype) -> None:
        """Raise ValueError if the solver's type is no narrower than that of the weights or the trainer's autocast."""
        if self.dtype is not None and dtype.itemsize <= self.dtype.itemsize:
            raise ValueError(
                f"solver {type(self).__name__} must compute in a narrower type than the window, got dtype={self.dtype} "
                f"where the transformer computes in {dtype} anyway; take solver=null, or float32 for the window."
            )

    def outside(self, device_type: str) -> AbstractContextManager[Any]:
        """Return the context of the transformer's calls outside the window, on a kind of device."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(device_type, dtype=self.dtype, cache_enabled=False)

    def finish(
        self,
        latents: Float[Tensor, "rows *latent"],
        ends: Int[Tensor, " rows"],
        schedule: Schedule,
        velocity: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Float[Tensor, "rows *latent"]:
        """Take the ``tail_steps``; called if there are any.

        Args:
            latents: Of all rows.
            ends: First step after each row's window, on the CPU.
            schedule: The noise levels of all steps.
            velocity: The transformer's, of (latents, the step of each row, which rows to evaluate); zero for the other
                rows. To be called ``tail_steps`` times.

        Returns:
            Finished latents.
        """
        return latents


class Euler(Solver):
    """The transformer's velocity at every step of the schedule. Exact, and the default."""

    def check(self, step_window: StepWindow, num_steps: int) -> None:
        """Accept every window."""
