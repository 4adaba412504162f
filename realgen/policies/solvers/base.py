"""What a rollout does outside its window, where nothing is decided and nothing is scored.

Log-probabilities, and so the ratio, are about the steps inside the window alone, and those are always taken exactly.
What happens before it only chooses the states that the window starts from; what happens after it only chooses the image
that the reward sees. So the ratio at the first update is 1 with every solver. But the reward then scores images that
the deployed sampler would not have drawn: every solver but ``Euler`` is approximate, and its price is to be measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.policies.backbones.base import Schedule
from realgen.policies.step_window import StepWindow

WindowPhase = Literal["before", "inside", "after"]
"""Of a row at a step: its window is still to come, covers this step, or is over."""
PHASES: tuple[WindowPhase, ...] = ("before", "inside", "after")


class Solver:
    """How the rows of a rollout move outside their windows; chosen by config.

    It is data that the denoising loop reads. What it says of a step must not depend on the rows: on sharded weights
    every rank has to make the same calls.
    """

    tail_steps: int = 0
    """Steps of ``finish``."""
    dtype: torch.dtype | None = None
    """Type of the transformer's arithmetic outside the window; ``None``: that of the window."""
    reuses_velocity: bool = False
    """Whether rows that are not evaluated move on with their last velocity; otherwise they stay where they are."""

    def check(self, step_window: StepWindow, num_steps: int) -> None:
        """Raise ValueError for a window outside which there is nothing to do.

        Args:
            step_window: Which steps are stochastic.
            num_steps: Denoising steps of the rollout.

        Raises:
            ValueError: If the window covers every step.
        """
        if step_window.decisions(num_steps) == num_steps:
            raise ValueError(
                f"solver {type(self).__name__} changes only steps outside the window, and step_window "
                f"{type(step_window).__name__} covers all {num_steps}; choose a smaller window, or solver=null."
            )

    def check_precision(self, dtype: torch.dtype) -> None:
        """Raise ValueError for a type outside the window that is no narrower than the window's.

        Args:
            dtype: Of the transformer's weights, or of the trainer's autocast.

        Raises:
            ValueError: If it has no more bits than that of the solver.
        """
        if self.dtype is not None and dtype.itemsize <= self.dtype.itemsize:
            raise ValueError(
                f"solver {type(self).__name__} must compute in a narrower type than the window, got dtype={self.dtype} "
                f"where the transformer computes in {dtype} anyway; take solver=null, or float32 for the window."
            )

    def shared_steps(self, num_steps: int, starts: range, size: int) -> int:
        """Number of steps that all rows take together before ``finish``.

        Args:
            num_steps: Denoising steps of the rollout.
            starts: Where a window may start, on any rank.
            size: Steps of a window.
        """
        return num_steps

    def evaluated(self, step: int) -> frozenset[WindowPhase]:
        """Return the phases whose rows the transformer is called for at a step; always with ``inside``."""
        return frozenset(PHASES)

    def finish(
        self,
        latents: Float[Tensor, "rows *latent"],
        ends: Int[Tensor, " rows"],
        schedule: Schedule,
        velocity: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Float[Tensor, "rows *latent"]:
        """Take the ``tail_steps`` that are left after the shared ones.

        Args:
            latents: Of all rows.
            ends: First step behind each row's window.
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
