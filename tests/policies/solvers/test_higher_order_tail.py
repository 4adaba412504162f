"""Against the closed form of a flow whose data are Gaussian: x(sigma) = scale(sigma) z with z fixed on the way."""

import itertools

import pytest
import torch

from realgen.policies import RandomWindow
from realgen.policies.backbones.base import Schedule
from realgen.policies.solvers import HigherOrderTail
from realgen.policies.solvers.higher_order_tail import tail_nodes

SPREAD, STEPS = 0.3, 12


def scale(sigma: torch.Tensor) -> torch.Tensor:
    """Standard deviation of (1 - sigma) x0 + sigma n, with x0 of spread 0.3."""
    return (((1 - sigma) * SPREAD) ** 2 + sigma**2).sqrt()


def velocity(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """E[n - x0 | x] of jointly Gaussian x0, n and x."""
    slope = (sigma - (1 - sigma) * SPREAD**2) / scale(sigma) ** 2
    return slope[:, None] * latents


class Flow:
    """Answers for every row that is asked for, and remembers the steps."""

    def __init__(self, num_steps: int = STEPS, last: float = 0.0) -> None:
        even = torch.linspace(1, last, num_steps + 1)
        sigmas = 3 * even / (1 + 2 * even)  # shifted as SD3's
        self.schedule = Schedule(sigmas=sigmas, timesteps=sigmas[:-1] * 1000)
        self.asked: list[list[int | None]] = []

    def __call__(self, latents: torch.Tensor, steps: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        self.asked.append([step if row else None for step, row in zip(steps.tolist(), rows.tolist(), strict=True)])
        return velocity(latents, self.schedule.sigmas[steps]) * rows[:, None]


def error(solver: HigherOrderTail, ends: list[int], **how) -> torch.Tensor:
    """Distance of each row's end from the truth."""
    flow, z = Flow(**how), torch.linspace(-2, 2, 8).expand(len(ends), 8)
    sigmas = flow.schedule.sigmas
    finished = solver.finish(scale(sigmas[ends])[:, None] * z, torch.tensor(ends), flow.schedule, flow)
    return (finished - scale(sigmas[-1]) * z).abs().amax(dim=1)


@pytest.mark.parametrize("scheduler", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_a_higher_order_is_nearer_to_the_truth(scheduler) -> None:
    # Up to sigma = 0.56 here: the last step is Euler's in every solver, and at sigma = 0 its error hides the others.
    tails = HigherOrderTail(12, solver_order=1), HigherOrderTail(12, scheduler)
    euler, second = (error(tail, [12, 14], num_steps=48, last=0.3) for tail in tails)
    assert (second < 0.5 * euler).all()


def test_the_first_order_is_euler() -> None:
    flow, latents = Flow(), torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    sigmas, expected = flow.schedule.sigmas, latents
    for step in range(4, STEPS):
        expected = expected + (sigmas[step + 1] - sigmas[step]) * velocity(expected, sigmas[[step, step]])
    finished = HigherOrderTail(8, solver_order=1).finish(latents, torch.tensor([4, 4]), flow.schedule, flow)
    torch.testing.assert_close(finished, expected, rtol=0, atol=1e-5)


def test_rows_with_fewer_steps_left_take_those() -> None:
    flow = Flow()
    latents = torch.ones(4, 8)
    finished = HigherOrderTail(3).finish(latents, torch.tensor([12, 4, 11, 4]), flow.schedule, flow)
    assert flow.asked == [[None, 4, 11, 4], [None, 7, None, 7], [None, 9, None, 9]]
    assert torch.equal(finished[0], latents[0])
    assert torch.equal(finished[1], finished[3])


def test_more_steps_are_nearer_to_the_truth() -> None:
    errors = [error(HigherOrderTail(steps), [4]).item() for steps in (2, 4, 8)]
    assert errors == sorted(errors, reverse=True)


def test_nodes_rise_evenly_from_the_windows_end_to_the_last() -> None:
    for end, steps in itertools.product(range(12), range(1, 13)):
        nodes = tail_nodes(end, 12, steps)
        assert (nodes[0], nodes[-1], len(nodes)) == (end, 12, min(steps, 12 - end) + 1), (end, steps, nodes)
        even = [end + index * (12 - end) / (len(nodes) - 1) for index in range(len(nodes))]
        assert nodes == sorted(set(nodes)), (end, steps, nodes)
        assert all(abs(node - ideal) <= 0.5 for node, ideal in zip(nodes, even, strict=True)), (end, steps, nodes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HigherOrderTail(0), "num_tail_steps must be at least 1, got 0"),
        (lambda: HigherOrderTail(2, solver_order=4), "solver_order must be 1 to 3, got 4"),
        (lambda: HigherOrderTail(9).check(RandomWindow(3, 1), 12), r"at most 8, all that .* leaves of num_steps=12"),
    ],
)
def test_impossible_numbers_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
