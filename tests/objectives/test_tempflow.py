"""TempFlow-GRPO: the weight of a step is its noise over the mean of all steps."""

import pytest
import torch

from realgen.functional.flow_sde import FlowSDE
from realgen.objectives import GRPO, TempFlowGRPO

ADVANTAGES = [1.0, -0.5, 2.0, 0.0]


def test_each_step_s_gradient_is_weighed_by_its_noise(toy, gradient):
    found = gradient(TempFlowGRPO().loss(toy.score(mean := toy.moved()), toy.batch(ADVANTAGES))[0], mean)
    plain = gradient(GRPO().loss(toy.score(mean := toy.moved()), toy.batch(ADVANTAGES))[0], mean)
    weights = torch.tensor([0.5, 0.8, 1.1], dtype=torch.float64) / 0.8
    torch.testing.assert_close(found, plain * weights[:, None, None, None], rtol=1e-12, atol=1e-15)


def test_a_schedule_s_mean_is_over_all_of_its_steps():
    sigmas = torch.tensor([1.0, 0.8, 0.4, 0.0], dtype=torch.float64)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    each = [FlowSDE(0.7).step(zero, zero, *sigmas[step : step + 2, None], sigmas[1])[1].item() for step in range(3)]
    assert FlowSDE(0.7).mean_std(sigmas).item() == pytest.approx(sum(each) / 3)
