"""What a rollout does outside its window, where nothing is decided and nothing is scored.

Log-probabilities, and so the ratio, are about the steps inside the window alone, and those are always taken exactly.
What happens before it only chooses the states that the window starts from; what happens after it only chooses the image
that the reward sees. So the ratio at the first update is 1 with every solver. But the reward then judges images that
the deployed sampler would not have drawn: every solver but ``Euler`` is approximate, and its price is to be measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from realgen.policies.backbones.base import Schedule
from realgen.policies.step_window import StepWindow

Place = Literal["before", "inside", "after"]
"""Where a row stands: its window is still to come, holds this step, or is over."""


@runtime_checkable
class EvaluateStep(Protocol):
    """Calls the transformer for the rows that stand at some places, all at the same step."""

    def __call__(self, *places: Place, otherwise: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Give the velocity of every row.

        Args:
            *places: Where the rows stand that the transformer is asked about.
            otherwise: [live, *latent] velocity of the other rows; ``None``: zero.
            dtype: Type of autocast; ``None``: as everywhere.

        Returns:
            [live, *latent].
        """


@runtime_checkable
class EvaluateRows(Protocol):
    """Calls the transformer for some rows, each at its own step."""

    def __call__(
        self, latents: Float[Tensor, "live *latent"], steps: Int[Tensor, " live"], rows: Bool[Tensor, " live"]
    ) -> Float[Tensor, "live *latent"]:
        """Give the velocity of all rows; zero for those that are not asked for."""


class Solver(ABC):
    """How the rows of a rollout move outside their windows; chosen by config.

    A solver must ask for the same places at the same step whatever the rows are: on sharded weights every rank has to
    make the same calls.
    """

    tail_steps: int = 0
    """Steps of ``finish``."""
    dtype: torch.dtype | None = None
    """Type of the transformer's arithmetic outside the window; ``None``: that of the window."""

    def check(self, step_window: StepWindow, num_steps: int) -> None:
        """Refuse a window outside which there is nothing to do.

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
        """Refuse to compute outside the window in a type that is no narrower than the window's.

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

    @abstractmethod
    def velocity(self, step: int, last: Tensor | None, evaluate: EvaluateStep) -> Tensor:
        """Give every row a velocity; those inside their window must have the transformer's.

        Args:
            step: The step to take.
            last: [live, *latent] velocity of each row at the step before; ``None`` at the first.
            evaluate: The transformer.

        Returns:
            [live, *latent]; rows with zero stay where they are.
        """

    def finish(
        self,
        latents: Float[Tensor, "rows *latent"],
        ends: Int[Tensor, " rows"],
        schedule: Schedule,
        evaluate: EvaluateRows,
    ) -> Float[Tensor, "rows *latent"]:
        """Take the ``tail_steps`` that are left after the shared ones.

        Args:
            latents: Of all rows.
            ends: First step behind each row's window.
            schedule: The noise levels of all steps.
            evaluate: The transformer, to be called ``tail_steps`` times.

        Returns:
            Finished latents.
        """
        return latents


class Euler(Solver):
    """The transformer's velocity at every step of the schedule. Exact, and the default."""

    def check(self, step_window: StepWindow, num_steps: int) -> None:
        """Every window suits it."""

    def velocity(self, step: int, last: Tensor | None, evaluate: EvaluateStep) -> Tensor:
        """The transformer's, for all rows in one batch."""
        return evaluate("before", "inside", "after")
