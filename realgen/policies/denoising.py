"""From noise to finished latents: the loop over the denoising steps, and the transformer calls in it."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.parallel import autocast_without_cache, send, world_size
from realgen.policies.backbones.base import Backbone, Schedule
from realgen.policies.solvers import Euler, Solver
from realgen.policies.window_recorder import WindowRecorder

PHASES = ("before", "inside", "after")
"""Of a row at a step: its window is still to come, covers this step, or is over."""


class VelocityField:
    """The backbone's velocities for some prompts at the steps of a schedule."""

    def __init__(self, backbone: Backbone, schedule: Schedule, conditioning: Mapping[str, Tensor]) -> None:
        self.backbone, self.schedule, self.conditioning = backbone, schedule, conditioning
        self.evals = 0
        """Rows that the transformer has been called with, those for guidance included."""

    def __call__(
        self,
        latents: Float[Tensor, "rows *latent"],
        steps: Int[Tensor, " rows"],
        prompt_index: Int[Tensor, " rows"],
        *,
        calls: int,
        guided: bool = True,
    ) -> Float[Tensor, "rows *latent"]:
        """Return the velocity of each row at its own step, in ``calls`` transformer calls, at most as many as rows.

        ``prompt_index`` is each row's entry of ``conditioning``, on the CPU. Without ``guided`` there is no guidance.
        """
        backbone = self.backbone
        index = send(prompt_index, latents.device)
        parts = (latents, self.schedule.timesteps[send(steps, latents.device)], index, prompt_index)
        chunks = zip(*(part.tensor_split(calls) for part in parts), strict=True)
        text = self.conditioning.items()
        with autocast_without_cache(latents.device.type), guidance(backbone, guided):
            velocity = [
                # Masks of the text stay on the CPU, see `Backbone.encode`.
                backbone.velocity(x, t, {name: part[there if part.is_cpu else here] for name, part in text})
                for x, t, here, there in chunks
            ]
            self.evals += len(latents) * backbone.evals_per_row
        return torch.cat(velocity)


@contextmanager
def guidance(backbone: Backbone, guided: bool) -> Iterator[None]:
    """Inside this context the backbone has guidance as configured, or none."""
    scale = backbone.cfg_scale
    if not guided:
        backbone.cfg_scale = min(scale, backbone.cfg_off)
    try:
        yield
    finally:
        backbone.cfg_scale = scale


class Denoising:
    """One run from noise to finished latents, all rows at the same step.

    Args:
        field: The transformer's velocities.
        policy: Its ``transition`` takes the steps inside its ``step_window``, its ``solver`` those outside, and its
            ``guided_window`` tells whether guidance holds inside too; without ``recorder`` all steps are Euler's.
        batch_size: Most rows of one transformer call.
        report: Called after each step with the steps done and their number.
        recorder: Draws the stochastic steps and records them; ``None``: there are none.
    """

    def __init__(
        self,
        field: VelocityField,
        policy: Any,
        batch_size: int,
        report: Callable[[int, int], None],
        recorder: WindowRecorder | None = None,
    ) -> None:
        self.field, self.policy, self.batch_size, self.report = field, policy, batch_size, report
        self.recorder = recorder
        num_steps = len(field.schedule.timesteps)
        self._starts, self._window_size = range(num_steps, num_steps + 1), 0  # where a window may start, on any rank
        self._solver: Solver = Euler()
        if recorder is not None:
            self._starts, self._window_size = policy.step_window.starts(num_steps), recorder.size
            self._solver = policy.solver
        # The steps that all rows take together, before the solver's own.
        self._shared_steps = self._starts[-1] + self._window_size if self._solver.tail_steps else num_steps

    def run(
        self, latents: Float[Tensor, "live *latent"], prompt_index: Int[Tensor, " live"]
    ) -> Float[Tensor, "rows *latent"]:
        """Take all steps, from prompt-major noise to finished latents; ``prompt_index`` is as in ``VelocityField``."""
        if torch.is_autocast_enabled(latents.device.type):
            self._solver.check_precision(torch.get_autocast_dtype(latents.device.type))
        recorder, sigmas = self.recorder, self.field.schedule.sigmas
        velocity = torch.zeros_like(latents)
        for step in range(self._shared_steps):
            if recorder is not None:
                prompt_index, latents, velocity = recorder.branch(step, prompt_index, latents, velocity)
            phase, steps = self._phases(step, prompt_index), sigmas.new_full((len(latents),), step, dtype=torch.long)
            velocity = self._velocity(step, latents, velocity, prompt_index, phase)
            inside = phase == PHASES.index("inside")
            mean, std = self.policy.transition.step(
                latents, velocity, sigmas[steps], sigmas[steps + 1], sigmas[1], noisy=send(inside, latents.device)
            )
            if recorder is not None:
                mean = recorder.decide(step, inside, latents, velocity, mean, std, sigmas[step] - sigmas[step + 1])
            latents = mean
            self.report(step + 1, self._shared_steps + self._solver.tail_steps)
        return self._finish(latents, prompt_index, recorder) if recorder and self._solver.tail_steps else latents

    def _phases(self, step: int, prompt_index: Tensor) -> Int[Tensor, " live"]:
        """Return the phase of each row at a step, as an index of ``PHASES``."""
        if self.recorder is None:
            return torch.zeros_like(prompt_index)
        start = self.recorder.starts[prompt_index]
        return (start <= step).long() + (start + self.recorder.size <= step).long()

    def _velocity(self, step: int, latents: Tensor, last: Tensor, prompt_index: Tensor, phase: Tensor) -> Tensor:
        """Return the velocity of each row at a step: the transformer's, or what the solver takes for it."""
        starts, size = self._starts, self._window_size
        # The phases that a row may be in, on any rank: what is called must depend on these alone.
        possible_by_phase = (step < starts[-1], starts[0] <= step < starts[-1] + size, step >= starts[0] + size)
        possible = {name for name, here in zip(PHASES, possible_by_phase, strict=True) if here}
        inside = possible & {"inside"}
        called = possible if step % self._solver.every == 0 else inside
        if self._solver.tail_steps:
            called = called - {"after"}
        groups = [(called - inside, True, True), (inside, self.policy.guided_window, False)]
        if self.policy.guided_window and self._solver.dtype is None:  # all rows alike, in one batch
            groups = [(called, True, False)]
        velocity = last if self._solver.every > 1 else torch.zeros_like(latents)
        steps = torch.full_like(prompt_index, step)
        for group, guided, outside in groups:
            with self._solver.outside(latents.device.type) if outside else nullcontext():
                if group == possible:
                    velocity = self.field(latents, steps, prompt_index, calls=self._all_calls(latents), guided=guided)
                elif group:
                    rows = torch.isin(phase, phase.new_tensor([PHASES.index(name) for name in group]))
                    velocity = self._fill(velocity, latents, steps, prompt_index, rows, guided=guided)
        return velocity

    def _finish(self, latents: Tensor, prompt_index: Tensor, recorder: WindowRecorder) -> Tensor:
        """Take the solver's own steps after the shared ones."""
        total = self._shared_steps + self._solver.tail_steps
        done = iter(range(self._shared_steps + 1, total + 1))

        def velocity(latents: Tensor, steps: Tensor, rows: Tensor) -> Tensor:
            answer = self._fill(torch.zeros_like(latents), latents, steps, prompt_index, rows, guided=True)
            self.report(next(done), total)
            return answer

        ends = recorder.starts[prompt_index] + recorder.size
        return self._solver.finish(latents, ends, self.field.schedule, velocity)

    def _fill(
        self, velocity: Tensor, latents: Tensor, steps: Tensor, prompt_index: Tensor, rows: Tensor, *, guided: bool
    ) -> Tensor:
        """Return the given velocities, with the transformer's in their place for some rows."""
        count = int(rows.sum())
        calls = self._all_calls(latents) if world_size() > 1 else math.ceil(count / self.batch_size)
        # The requested rows come first; of the others as many as are needed for a row in every call.
        chosen = rows.to(torch.int8).argsort(descending=True, stable=True)[: max(count, calls)]
        velocity = velocity.clone()
        if calls:
            sent = send(chosen, latents.device)
            answer = self.field(latents[sent], steps[chosen], prompt_index[chosen], calls=calls, guided=guided)
            velocity[sent[:count]] = answer[:count]
        return velocity

    def _all_calls(self, latents: Tensor) -> int:
        """Return the calls for all rows: each gathers the shards, so ranks must make as many, wherever rows branch."""
        rows = len(latents) if self.recorder is None else self.recorder.num_rows
        return math.ceil(rows / self.batch_size)
