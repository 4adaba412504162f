"""Decisions of the forward process: draws of (sigma, noise) on the policy's own finished latents.

A rollout follows the ODE alone, so that the reward sees images without a sampler's noise, and keeps only the finished
latent of each sample. What is trained is the velocity at (1 - sigma) * latent + sigma * noise, whose target is noise
minus latent; minus the weighted error stands for the sample's log-likelihood.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least
from realgen.functional.flow_sde import FlowSDE, Transition
from realgen.functional.matching import MatchingError, NoiseLevels, draw_noise_levels, matching_error
from realgen.parallel import send
from realgen.policies.backbones.base import Schedule
from realgen.policies.step_window import AllSteps, StepWindow
from realgen.policies.weight_copy import Lag
from realgen.types import Draw, PolicyScore


@dataclass(frozen=True)
class ForwardDraws:
    """Which draws of each finished latent are decisions, how errors are weighted, and which weights sample.

    ValueError if a number is out of its range, or a name is unknown.

    Args:
        count: S of each sample, at least 1. An update costs S forward and backward passes of each sample.
        noise_levels: How sigma is drawn: from the rollout's own ``steps``, without repetition; ``stratified`` along
            their schedule; ``uniform`` in sigma; ``logit_normal``.
        noisiest: Share of the schedule that sigma is drawn from, counted from pure noise, above 0 to 1.
        error: Weighting of the squared error of a velocity, see ``realgen.functional.matching``.
        shared: Whether all samples of a group have the same draws, as DGPO needs. Then their differences are the
            latents' alone.
        lagged: Weights that follow the trained ones slowly, by name, for ``sampler`` and for the objective.
        sampler: Which of them rollouts use; ``null``: the trained weights.
    """

    count: int = 3
    noise_levels: NoiseLevels = "steps"
    noisiest: float = 1.0
    error: MatchingError = "adaptive"
    shared: bool = False
    lagged: dict[str, Lag] = field(default_factory=dict)
    sampler: str | None = None

    def __post_init__(self) -> None:
        check_at_least(1, count=self.count)
        if not 0 < self.noisiest <= 1:
            raise ValueError(f"noisiest must be above 0 and at most 1, got {self.noisiest}.")
        if self.noise_levels == "logit_normal" and self.noisiest < 1:
            raise ValueError(f"noisiest must be 1 with noise_levels='logit_normal', got {self.noisiest}.")
        if self.sampler is not None and self.sampler not in self.lagged:
            raise ValueError(f"sampler must be null or one of lagged, {sorted(self.lagged)}, got {self.sampler!r}.")

    def check(
        self, transition: Transition | None, step_window: StepWindow | None, num_steps: int, samples_per_noise: int
    ) -> None:
        """Raise ValueError for settings of a policy that have no effect with draws, or too few steps."""
        if transition is not None or step_window is not None:
            raise ValueError("draws need transition=null and step_window=null: their rollout has no stochastic step.")
        if samples_per_noise != 1:
            raise ValueError(
                f"samples_per_noise must be 1 with draws, got {samples_per_noise}: without stochastic steps samples "
                "that start from the same noise are one image."
            )
        if self.noise_levels == "steps" and self.count > (most := max(1, int(self.noisiest * num_steps))):
            raise ValueError(
                f"draws.count must be at most {most} with noise_levels='steps', that is noisiest={self.noisiest} of "
                f"num_steps={num_steps}, got {self.count}."
            )

    def record(
        self, latents: Float[Tensor, "rows *latent"], group_size: int, schedule: Schedule, generator: torch.Generator
    ) -> dict[str, Any]:
        """Draw for finished latents, prompt by prompt; return the fields of a rollout that hold its decisions."""
        own = 1 if self.shared else group_size
        sigmas, seeds = [], []
        for _ in range(len(latents) // group_size):  # one by one, so that the sizes of chunks change nothing
            how: dict[str, Any] = {"noisiest": self.noisiest, "generator": generator}
            drawn = draw_noise_levels(self.noise_levels, own, self.count, schedule.sigmas, **how)
            sigmas.append(drawn.expand(group_size, -1).cpu())
            seed = torch.randint(2**62, (own,), generator=generator, device=generator.device)
            seeds.append(seed.expand(group_size).cpu())
        state = {"latents": latents, "sigma": torch.cat(sigmas), "seeds": torch.cat(seeds)}
        mask = torch.ones(len(latents), self.count, dtype=torch.bool, device=latents.device)
        return {"sampled": None, "mask": mask, "policy_state": state}


class DrawnStates:
    """Noisy states of some rows' draws, where the velocity is evaluated; their noise is made again from CPU seeds."""

    def __init__(self, state: Mapping[str, Tensor], schedule: Schedule, error: str) -> None:
        finished, self.error = state["latents"].to(schedule.sigmas.device), error
        rows, draws = state["sigma"].shape
        shape = (draws, *finished.shape[1:])
        sources = [torch.Generator().manual_seed(seed) for seed in state["seeds"].tolist()]
        noise = torch.stack([torch.randn(shape, generator=source) for source in sources])
        noise = send(noise, finished.device).to(finished.dtype)
        self.sigma = send(state["sigma"], finished.device)
        level = self.sigma.to(finished.dtype).view(rows, draws, *[1] * (finished.ndim - 1))  # [b, S, 1, ...]
        finished = finished.unsqueeze(1)
        self.latents = (1 - level) * finished + level * noise  # [b, S, *latent]
        self.target = noise - finished
        # A flow model's time is proportional to sigma: one "step" for each draw, at its own time.
        times = self.sigma.flatten() * (schedule.timesteps[0] / schedule.sigmas[0])
        self.schedule = Schedule(torch.cat([self.sigma.flatten(), self.sigma.new_zeros(1)]), times)
        self.steps = torch.arange(rows * draws, device=finished.device)

    def score(self, velocity: Float[Tensor, "rows decisions *latent"]) -> PolicyScore:
        """Return minus the weighted errors of the velocities, with all that objectives of draws read."""
        draw = Draw(self.target, self.sigma, self.error)
        return PolicyScore(-matching_error(velocity, draw), velocity=velocity, draw=draw)


class NoWindow(AllSteps):
    """No stochastic step: every step is the solver's."""

    transition = FlowSDE(0.0)
    """The ODE's own step."""

    def decisions(self, num_steps: int) -> int:
        """Return 0: all steps lie behind the window."""
        return 0

    def check(self, num_steps: int) -> None:
        """Accept every number of steps."""
