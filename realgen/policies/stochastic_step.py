"""One denoising step of many rows, each at its own place in the schedule."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from realgen.functional.flow_sde import Transition
from realgen.policies.backbones.base import Schedule
from realgen.policies.step_window import StepWindow


def next_gaussian(
    transition: Transition,
    schedule: Schedule,
    latents: Float[Tensor, "rows *latent"],
    velocity: Float[Tensor, "rows *latent"],
    steps: Int[Tensor, " rows"],
    stochastic: Bool[Tensor, " rows"],
) -> tuple[Float[Tensor, "rows *latent"], Float[Tensor, " rows"]]:
    """Mean and std of each row's next latent; rows that are not stochastic take the Euler step.

    Args:
        transition: How a stochastic step is taken.
        schedule: The noise levels of all steps.
        latents: Before the step.
        velocity: The transformer's answer.
        steps: The step of each row.
        stochastic: Rows that are given noise.

    Returns:
        Mean, and std (0 for the other rows).
    """
    sigma = schedule.sigmas
    return transition(latents, velocity, sigma[steps], sigma[steps + 1], sigma[1].item(), stochastic=stochastic)


def check_noise(transition: Transition, schedule: Schedule, step_window: StepWindow, num_steps: int) -> None:
    """A decision without noise has no log-probability; with noise_level 0 that is meant, elsewhere it is not.

    Args:
        transition: How a stochastic step is taken.
        schedule: The noise levels of all steps.
        step_window: Which steps are stochastic.
        num_steps: Denoising steps in all.

    Raises:
        ValueError: If the window may cover a step to which the transition adds no noise.
    """
    starts, size = step_window.starts(num_steps), step_window.decisions(num_steps)
    steps = torch.arange(starts[0], starts[-1] + size)
    state = torch.zeros(len(steps), 1)
    _, std = next_gaussian(transition, schedule, state, state, steps, torch.ones(len(steps), dtype=torch.bool))
    silent = steps[std == 0].tolist()
    if silent and transition.noise_level > 0:
        raise ValueError(
            f"step_window may cover steps {silent} of {num_steps}, to which transition "
            f"{type(transition).__name__} adds no noise; choose a window that leaves them out."
        )
