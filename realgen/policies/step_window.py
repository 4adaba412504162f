"""Which denoising steps are stochastic, and therefore trained: the SDE window.

A window is ``decisions`` steps in a row. Steps before and after it follow the ODE. Every rollout has the same number
of decisions for all its rows (the axis S); where the window starts may differ between prompts.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.functional.flow_sde import Transition


class StepWindow(ABC):
    """Chooses where the window of each prompt starts."""

    @abstractmethod
    def decisions(self, num_steps: int) -> int:
        """Return the number of stochastic steps S, the same for every prompt."""

    @abstractmethod
    def starts(self, num_steps: int) -> range:
        """Return the steps at which a window may start; the last one must leave room for the window."""

    @abstractmethod
    def sample(
        self, num_prompts: int, num_steps: int, *, iteration: int, generator: torch.Generator
    ) -> Int[Tensor, " prompts"]:
        """Choose the first stochastic step of each prompt's window; [P] members of ``starts(num_steps)``.

        The generator is the only source of randomness, and the result on its device; iterations count from 0.
        """

    def check(self, num_steps: int) -> None:
        """Raise ValueError if the window is empty, longer than the steps, cannot start, or may end after the last."""
        name, decisions, starts = type(self).__name__, self.decisions(num_steps), self.starts(num_steps)
        if not 1 <= decisions <= num_steps:
            raise ValueError(
                f"step_window {name} covers {decisions} steps; it must cover 1 to num_steps={num_steps} of them."
            )
        if not starts or starts[0] < 0 or starts[-1] + decisions > num_steps:
            raise ValueError(
                f"step_window {name} of {decisions} steps may start at steps {starts.start} to {starts.stop - 1}; "
                f"with num_steps={num_steps} it can start at 0 to {num_steps - decisions}."
            )

    def check_noise(self, transition: Transition, sigmas: Float[Tensor, " nodes"]) -> None:
        """Raise ValueError if a step of the window has no noise, so no log-probability, unless all have none."""
        num_steps = len(sigmas) - 1
        starts = self.starts(num_steps)
        steps = torch.arange(starts[0], starts[-1] + self.decisions(num_steps))
        state = torch.zeros(len(steps), 1)
        _, std = transition.step(state, state, sigmas[steps], sigmas[steps + 1], sigmas[1].item())
        without = steps[std == 0].tolist()
        if without and transition.noise_level > 0:
            raise ValueError(
                f"step_window may cover steps {without} of {num_steps}, to which transition "
                f"{type(transition).__name__} adds no noise; choose a window that leaves them out."
            )


class AllSteps(StepWindow):
    """Every step is stochastic (Flow-GRPO, arXiv:2505.05470). Trains everything at the full price.

    Args:
        skip_last: Leave the last step to the ODE: its Gaussian is very sharp, and CPS has no noise left there.
    """

    def __init__(self, skip_last: bool = False) -> None:
        self.skip_last = skip_last

    def decisions(self, num_steps: int) -> int:
        """Return the number of steps, less the last one if it is skipped."""
        return num_steps - self.skip_last

    def starts(self, num_steps: int) -> range:
        """Return the first step."""
        return range(1)

    def sample(
        self, num_prompts: int, num_steps: int, *, iteration: int, generator: torch.Generator
    ) -> Int[Tensor, " prompts"]:
        """Return zeros."""
        return torch.zeros(num_prompts, dtype=torch.long, device=generator.device)
