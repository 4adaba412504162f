from __future__ import annotations

import pytest
import torch

from realgen.functional.flow_sde import CPS, FlowSDE
from realgen.policies import AllSteps
from realgen.policies.backbones.base import Schedule
from realgen.policies.stochastic_step import check_noise, next_gaussian

SIGMAS = torch.tensor([1.0, 0.75, 0.5, 0.0])
SCHEDULE = Schedule(timesteps=1000 * SIGMAS[:-1], sigmas=SIGMAS)


def test_each_row_takes_its_own_step() -> None:
    steps, stochastic = torch.tensor([2, 1, 1]), torch.tensor([False, False, True])
    latents, velocity = torch.ones(3, 2), torch.full((3, 2), 2.0)
    mean, std = next_gaussian(FlowSDE(0.7), SCHEDULE, latents, velocity, steps, stochastic)
    assert mean[:2].tolist() == [[0.0, 0.0], [0.5, 0.5]]  # 1 - 0.5 * 2 and 1 - 0.25 * 2, the Euler steps
    s = 0.7 * (0.75 / 0.25) ** 0.5  # Flow-GRPO, equation 9
    expected = 1 - 0.25 * (s**2 / 1.5) - 0.25 * 2 * (1 + s**2 * 0.25 / 1.5)
    torch.testing.assert_close(mean[2], torch.full((2,), expected))
    torch.testing.assert_close(std, torch.tensor([0.0, 0.0, s * 0.5]))


def test_a_step_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"step_window may cover steps \[2\] of 3, to which transition CPS adds no"):
        check_noise(CPS(), SCHEDULE, AllSteps(), 3)
    check_noise(CPS(), SCHEDULE, AllSteps(skip_last=True), 3)
    check_noise(FlowSDE(0.0), SCHEDULE, AllSteps(), 3)  # no noise is meant
