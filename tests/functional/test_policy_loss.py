"""Ratios and the clipped surrogate, by hand and in closed form."""

import math

import pytest
import torch

from realgen.functional.flow_sde import gaussian_log_prob
from realgen.functional.policy_loss import clipped_surrogate, is_clipped, masked_mean, ratio_norm


def gaussian_steps(rows: int = 3, decisions: int = 2) -> dict[str, torch.Tensor]:
    """Steps sampled from N(old_mean, std^2), and a policy that has moved to ``mean``."""
    generator = torch.Generator().manual_seed(0)
    shape = (rows, decisions, 4, 4, 4)
    old_mean, shift, noise = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    std = torch.linspace(0.1, 2.0, rows * decisions, dtype=torch.float64).view(rows, decisions)
    mean, sample = old_mean + 0.01 * shift, old_mean + std[..., None, None, None] * noise
    return {"sample": sample, "mean": mean, "old_mean": old_mean, "std": std}


def ratio_norm_by_definition(
    sample: torch.Tensor, mean: torch.Tensor, old_mean: torch.Tensor, std: torch.Tensor
) -> torch.Tensor:
    """As in the paper: the difference of two log-probabilities, plus the bias."""
    bias = (mean - old_mean).square().flatten(2).mean(-1) / (2 * std.square())
    return ((gaussian_log_prob(sample, mean, std) - gaussian_log_prob(sample, old_mean, std) + bias) * std).exp()


def test_ratio_norm_is_that_of_the_paper():
    steps = gaussian_steps()
    torch.testing.assert_close(ratio_norm(**steps), ratio_norm_by_definition(**steps), rtol=0, atol=1e-13)


def test_ratio_norm_has_the_gradient_of_the_paper():
    gradients = []
    for ratio in (ratio_norm, ratio_norm_by_definition):
        steps = gaussian_steps()
        steps["mean"].requires_grad_()
        ratio(**steps).square().sum().backward()
        gradients.append(steps["mean"].grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_ratio_norm_does_not_subtract_what_is_almost_equal():
    steps = gaussian_steps()
    steps["mean"] = steps["old_mean"] + 1e-4 * (steps["mean"] - steps["old_mean"])  # as far as one update goes
    steps = {name: value.float().double() for name, value in steps.items()}
    exact = ratio_norm_by_definition(**steps).log()
    rounded = {name: value.float() for name, value in steps.items()}
    noise = [(ratio(**rounded).double().log() - exact).abs().max() for ratio in (ratio_norm, ratio_norm_by_definition)]
    assert noise[0] < 1e-10 < 1e-8 < noise[1]


def test_ratio_norm_is_per_sample():
    steps = gaussian_steps()
    alone = torch.cat([ratio_norm(**{k: v[i : i + 1] for k, v in steps.items()}) for i in range(3)])
    assert torch.equal(ratio_norm(**steps), alone)


def test_ratio_norm_of_an_unmoved_policy_is_one():
    steps = gaussian_steps()
    steps |= {"mean": steps["old_mean"]}
    assert torch.equal(ratio_norm(**steps), torch.ones(3, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.4, True),  # good and already likelier: held at 1.2
        (1.15, 2.0, -2.3, False),
        (0.5, 2.0, -1.0, False),  # good but less likely: pulled back up
        (0.5, -2.0, 1.8, True),  # bad and already rarer: held at 0.9
        (0.85, -2.0, 1.8, True),
        (1.5, -2.0, 3.0, False),  # bad but likelier: pushed down
        (1.5, 0.0, 0.0, False),
    ],
)
def test_clipped_surrogate(ratio, advantage, loss, clipped):
    ratio, advantage = torch.tensor([[ratio]], requires_grad=True), torch.tensor([advantage])
    surrogate = clipped_surrogate(ratio, advantage, clip_low=0.1, clip_high=0.2)
    assert surrogate.item() == pytest.approx(loss)
    assert is_clipped(ratio, advantage, clip_low=0.1, clip_high=0.2).item() == clipped
    surrogate.sum().backward()
    assert ratio.grad.item() == pytest.approx(0.0 if clipped else -advantage.item())


def test_one_advantage_serves_all_decisions_of_its_sample():
    surrogate = clipped_surrogate(torch.ones(2, 3), torch.tensor([1.0, -2.0]), 0.2, 0.2)
    assert surrogate.tolist() == [[-1.0] * 3, [2.0] * 3]


def test_masked_mean_ignores_what_does_not_count_even_in_the_gradient():
    values = torch.tensor([[1.0, math.nan], [3.0, math.inf]], requires_grad=True)
    mean = masked_mean(values, torch.tensor([[True, False], [True, False]]))
    mean.backward()
    assert mean == 2.0
    assert values.grad.tolist() == [[0.5, 0.0], [0.5, 0.0]]


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)) == 0
