"""The steps after the window, taken by a multistep solver of higher order."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.checks import check_at_least
from realgen.parallel import send
from realgen.policies.backbones.base import Schedule
from realgen.policies.solvers.base import Solver
from realgen.policies.step_window import StepWindow


class HigherOrderTail(Solver):
    """Approximate: after its window a row is finished in a few larger steps of higher order.

    The steps are those of diffusers' DPM-Solver++ (arXiv:2211.01095) or UniPC (arXiv:2302.04867) for flow matching, as
    in MixGRPO-Flash (arXiv:2507.21802): they go over nodes of the model's own schedule, evenly chosen between the
    window's end and sigma = 0. A row whose window leaves fewer steps takes those. Before the window all is Euler's.

    Args:
        num_tail_steps: Transformer calls after the window, at least 1.
        scheduler: Class of diffusers.
        solver_order: Order of the steps, 1 to 3; the first ones and the last ones are of a lower one. With DPM-Solver++
            1 is Euler's.
    """

    def __init__(
        self,
        num_tail_steps: int,
        scheduler: Literal["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"] = "DPMSolverMultistepScheduler",
        solver_order: int = 2,
    ) -> None:
        check_at_least(1, num_tail_steps=num_tail_steps)
        if not 1 <= solver_order <= 3:
            raise ValueError(f"solver_order must be 1 to 3, got {solver_order}.")
        self.tail_steps = self.num_tail_steps = num_tail_steps
        self.scheduler = scheduler
        self.solver_order = solver_order

    def check(self, step_window: StepWindow, num_steps: int) -> None:
        """Raise ValueError if the window covers every step, or none leaves as many steps as the tail has."""
        super().check(step_window, num_steps)
        most = num_steps - step_window.starts(num_steps)[0] - step_window.decisions(num_steps)
        if self.num_tail_steps > most:
            where = f"step_window {type(step_window).__name__} leaves of num_steps={num_steps} after its first start"
            raise ValueError(f"num_tail_steps must be at most {most}, all that {where}, got {self.num_tail_steps}.")

    def finish(
        self,
        latents: Float[Tensor, "rows *latent"],
        ends: Int[Tensor, " rows"],
        schedule: Schedule,
        velocity: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Float[Tensor, "rows *latent"]:
        """Take the tail of every row, those with the same end by one scheduler."""
        num_steps = len(schedule.timesteps)
        nodes = {end: tail_nodes(end, num_steps, self.num_tail_steps) for end in ends.unique().tolist()}
        schedulers = {end: self._make_scheduler(schedule.sigmas[nodes[end]]) for end in nodes if end < num_steps}
        rows_by_end = {end: send((ends == end).nonzero().squeeze(1), latents.device) for end in schedulers}
        for index in range(self.num_tail_steps):
            going = [end for end in schedulers if index < len(nodes[end]) - 1]
            steps, following = torch.zeros_like(ends), latents.clone()
            for end in going:
                steps[ends == end] = nodes[end][index]
            answer = velocity(latents, steps, torch.isin(ends, torch.tensor(going, dtype=ends.dtype)))
            for end in going:
                scheduler, rows = schedulers[end], rows_by_end[end]
                step = scheduler.step(answer[rows], scheduler.timesteps[index], latents[rows], return_dict=False)
                following[rows] = step[0].to(latents.dtype)
            latents = following
        return latents

    def _make_scheduler(self, sigmas: Tensor) -> Any:
        """Return diffusers' scheduler over these noise levels."""
        import diffusers

        scheduler: Any = getattr(diffusers, self.scheduler)(
            prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=self.solver_order
        )
        scheduler.set_timesteps(len(sigmas) - 1)
        # Its own noise levels begin at 1; a tail begins where its window has ended.
        scheduler.sigmas = sigmas.cpu()
        scheduler.set_begin_index(0)
        return scheduler


def tail_nodes(end: int, num_steps: int, num_tail_steps: int) -> list[int]:
    """Choose ``num_tail_steps`` + 1 nodes, or all left, rising and evenly spaced, from a window's end to the last."""
    left = num_steps - end
    steps = min(num_tail_steps, left)
    return [end + round(index * left / steps) for index in range(steps + 1)] if steps else [end]
