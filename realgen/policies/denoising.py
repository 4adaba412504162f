"""From noise to finished latents: the loop over the denoising steps, and the transformer calls in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.functional.flow_sde import Transition
from realgen.parallel import autocast_without_cache, world_size
from realgen.policies.backbones.base import Backbone, Schedule
from realgen.policies.solvers import Euler, Solver
from realgen.policies.solvers.base import Place
from realgen.policies.step_window import StepWindow
from realgen.policies.stochastic_step import next_gaussian
from realgen.policies.trajectory import Trajectory

_PLACES: tuple[Place, ...] = ("before", "inside", "after")


class VelocityField:
    """The backbone's answers for some prompts at the steps of a schedule.

    Args:
        backbone: The base model.
        schedule: The noise levels of all steps.
        conditioning: What the backbone's ``encode_prompts`` gave.
    """

    def __init__(self, backbone: Backbone, schedule: Schedule, conditioning: Mapping[str, Tensor]) -> None:
        self.backbone, self.schedule, self.conditioning = backbone, schedule, conditioning
        self.evals = 0
        """Rows that the transformer has been called with, those for guidance included."""

    def __call__(
        self,
        latents: Float[Tensor, "rows *latent"],
        steps: Int[Tensor, " rows"],
        owner: Int[Tensor, " rows"],
        *,
        calls: int,
        guided: bool = True,
    ) -> Float[Tensor, "rows *latent"]:
        """Give the velocity of each row at its own step.

        Args:
            latents: The rows.
            steps: Of each row.
            owner: Each row's entry of ``conditioning``.
            calls: Transformer calls to make, at most as many as rows.
            guided: Whether classifier-free guidance is used where the backbone has it.

        Returns:
            Velocities.
        """
        backbone = self.backbone
        parts = (latents, self.schedule.timesteps[steps], owner)
        chunks = zip(*(part.tensor_split(calls) for part in parts), strict=True)
        with autocast_without_cache(latents.device.type), _guidance(backbone, guided):
            velocity = [
                backbone.velocity(x, t, {name: part[prompt] for name, part in self.conditioning.items()})
                for x, t, prompt in chunks
            ]
            self.evals += len(latents) * backbone.evals_per_row
        return torch.cat(velocity)


@contextmanager
def _guidance(backbone: Backbone, guided: bool) -> Iterator[None]:
    """Inside this context the backbone has guidance as configured, or none."""
    scale = backbone.cfg_scale
    if not guided:
        backbone.cfg_scale = min(scale, backbone.cfg_off)
    try:
        yield
    finally:
        backbone.cfg_scale = scale


@dataclass(frozen=True)
class StepPlan:
    """How the steps of a rollout are taken."""

    transition: Transition
    """Inside the window."""
    step_window: StepWindow
    """Which steps are inside."""
    solver: Solver
    """Outside the window."""
    guided_window: bool
    """Whether classifier-free guidance holds inside too."""


class Denoising:
    """One run from noise to finished latents, all rows at the same step.

    Args:
        field: What the transformer says.
        plan: How the steps are taken; without ``trajectory`` all are Euler's.
        batch_size: Most rows of one transformer call.
        report: Called after each step with the steps done and their number.
        trajectory: Takes the stochastic steps and keeps them; ``None``: there are none.
    """

    def __init__(
        self,
        field: VelocityField,
        plan: StepPlan,
        batch_size: int,
        report: Callable[[int, int], None],
        trajectory: Trajectory | None = None,
    ) -> None:
        self.field, self.plan, self.batch_size, self.report = field, plan, batch_size, report
        self.trajectory = trajectory
        num_steps = len(field.schedule.timesteps)
        self._starts, self._window_size = range(num_steps, num_steps + 1), 0  # where a window may start, on any rank
        self._solver: Solver = Euler()
        if trajectory is not None:
            self._starts, self._window_size = plan.step_window.starts(num_steps), trajectory.size
            self._solver = plan.solver
        self._shared_steps = self._solver.shared_steps(num_steps, self._starts, self._window_size)

    def run(self, latents: Float[Tensor, "live *latent"], owner: Int[Tensor, " live"]) -> Float[Tensor, "rows *latent"]:
        """Take all steps.

        Args:
            latents: Noise, prompt-major.
            owner: Each row's entry of the conditioning.

        Returns:
            Finished latents of all rows.
        """
        if torch.is_autocast_enabled(latents.device.type):
            self._solver.check_precision(torch.get_autocast_dtype(latents.device.type))
        trajectory, sigmas = self.trajectory, self.field.schedule.sigmas
        shared, last = self._shared_steps, None
        for step in range(shared):
            if trajectory is not None:
                latents, last, owner = _branch(trajectory, step, latents, last, owner)
            standing = self._standing(step, owner)
            stochastic, steps = standing == _PLACES.index("inside"), torch.full_like(owner, step)
            velocity = self._solver.velocity(step, last, partial(self._evaluate, latents, step, owner, standing))
            mean, std = next_gaussian(self.plan.transition, self.field.schedule, latents, velocity, steps, stochastic)
            if trajectory is not None:
                step_size = sigmas[step] - sigmas[step + 1]
                mean = trajectory.decide(step, stochastic, latents, velocity, mean, std, step_size)
            latents, last = mean, velocity
            self.report(step + 1, shared + self._solver.tail_steps)
        return latents if trajectory is None else self._finish(latents, owner, trajectory)

    def _standing(self, step: int, owner: Tensor) -> Int[Tensor, " live"]:
        """Where each row stands at a step, as an index of ``_PLACES``."""
        if self.trajectory is None:
            return torch.zeros_like(owner)
        start = self.trajectory.starts[owner]
        return (start <= step).long() + (start + self.trajectory.size <= step).long()

    def _possible_places(self, step: int) -> set[Place]:
        """Where a row may stand at a step, on any rank."""
        starts, size = self._starts, self._window_size
        possible = (step < starts[-1], starts[0] <= step < starts[-1] + size, step >= starts[0] + size)
        return {place for place, here in zip(_PLACES, possible, strict=True) if here}

    def _evaluate(
        self,
        latents: Tensor,
        step: int,
        owner: Tensor,
        standing: Tensor,
        *places: Place,
        otherwise: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """The velocity of the rows at some places; see ``EvaluateStep``."""
        possible, steps = self._possible_places(step), torch.full_like(owner, step)
        asked = possible.intersection(places)
        unguided: set[Place] = set() if self.plan.guided_window else asked & {"inside"}
        velocity = torch.zeros_like(latents) if otherwise is None else otherwise
        device_type = latents.device.type
        with nullcontext() if dtype is None else torch.autocast(device_type, dtype=dtype, cache_enabled=False):
            for group, guided in ((asked - unguided, True), (unguided, False)):
                if group == possible:
                    velocity = self.field(latents, steps, owner, calls=self._all_calls(latents), guided=guided)
                elif group:
                    rows = torch.isin(standing, standing.new_tensor([_PLACES.index(place) for place in group]))
                    velocity = self._fill(velocity, latents, steps, owner, rows, guided=guided)
        return velocity

    def _finish(self, latents: Tensor, owner: Tensor, trajectory: Trajectory) -> Tensor:
        """The solver's own steps behind the shared ones."""
        total = self._shared_steps + self._solver.tail_steps
        done = iter(range(self._shared_steps + 1, total + 1))

        def evaluate(latents: Tensor, steps: Tensor, rows: Tensor) -> Tensor:
            velocity = self._fill(torch.zeros_like(latents), latents, steps, owner, rows, guided=True)
            self.report(next(done), total)
            return velocity

        ends = trajectory.starts[owner] + trajectory.size
        return self._solver.finish(latents, ends, self.field.schedule, evaluate)

    def _fill(
        self, velocity: Tensor, latents: Tensor, steps: Tensor, owner: Tensor, rows: Tensor, *, guided: bool
    ) -> Tensor:
        """The given velocities, but the transformer's for some rows."""
        count = int(rows.sum())
        calls = self._all_calls(latents) if world_size() > 1 else math.ceil(count / self.batch_size)
        # Those asked for come first; of the others as many as are needed for a row in every call.
        chosen = rows.to(torch.int8).argsort(descending=True, stable=True)[: max(count, calls)]
        velocity = velocity.clone()
        if calls:
            answer = self.field(latents[chosen], steps[chosen], owner[chosen], calls=calls, guided=guided)
            velocity[chosen[:count]] = answer[:count]
        return velocity

    def _all_calls(self, latents: Tensor) -> int:
        """Calls for all rows. Each gathers the shards, so all ranks must make the same number, wherever rows branch."""
        rows = len(latents) if self.trajectory is None else self.trajectory.num_rows
        return math.ceil(rows / self.batch_size)


def _branch(
    trajectory: Trajectory, step: int, latents: Tensor, last: Tensor | None, owner: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Give the rows that branch, and the velocities that led to them if there are any, to each of their samples."""
    parts = [latents] if last is None else [latents, last]
    branched, owner = trajectory.branch(step, torch.stack(parts, dim=1), owner)
    return branched[:, 0].contiguous(), None if last is None else branched[:, 1].contiguous(), owner
