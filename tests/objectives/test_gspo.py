"""GSPO by hand: two completions of different length."""

import math

import pytest
import torch

from realgen.objectives import GSPO
from realgen.types import Minibatch, PolicyScore

OLD = torch.tensor([[0.5, 0.4, 0.2], [0.25, 0.5, 0.9]], dtype=torch.float64).log()
MASK = torch.tensor([[True, True, True], [True, True, False]])


def batch(advantages: list[float]) -> Minibatch:
    return Minibatch(torch.tensor(advantages, dtype=torch.float64), PolicyScore(OLD), MASK)


def moved(first: list[float], second: list[float]) -> torch.Tensor:
    """Log-probabilities whose tokens have these ratios; the third of the second row is padding."""
    return (OLD + torch.tensor([first, [*second, 9.0]], dtype=torch.float64).log()).requires_grad_()


def test_loss_is_the_mean_over_completions_of_geometric_means():
    log_probs = moved([2.0, 1.0, 0.5], [1.21, 1.0])
    loss, stats = GSPO(clip_low=0.5, clip_high=0.5).loss(PolicyScore(log_probs), batch([1.0, -2.0]))
    # s = (2 * 1 * 0.5)^(1/3) = 1 and (1.21 * 1)^(1/2) = 1.1, none clipped: -(1 * 1 - 2 * 1.1) / 2.
    assert loss.item() == pytest.approx(0.6)
    assert stats["clip_fraction"] == 0
    assert stats["ratio_max_deviation"].item() == pytest.approx(0.1)


def test_gradient_of_a_token_is_that_of_its_completion_over_the_length():
    log_probs = moved([2.0, 1.0, 0.5], [1.21, 1.0])
    loss, _ = GSPO(clip_low=0.5, clip_high=0.5).loss(PolicyScore(log_probs), batch([1.0, -2.0]))
    (gradient,) = torch.autograd.grad(loss, log_probs)
    # Equation 11: d/d log p_t = -A s / |o| / G.
    expected = [[-1 / 3 / 2] * 3, [2 * 1.1 / 2 / 2, 2 * 1.1 / 2 / 2, 0.0]]
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64))


def test_a_completion_is_clipped_as_a_whole():
    log_probs = moved([3.0, 1.0, 1.0], [0.5, 1.0])
    loss, stats = GSPO(clip_low=0.2, clip_high=0.3).loss(PolicyScore(log_probs), batch([1.0, -2.0]))
    # s = 3^(1/3) = 1.44 > 1.3 and 0.5^(1/2) = 0.71 < 0.8: -(1.3 - 2 * 0.8) / 2, and no gradient at all.
    assert loss.item() == pytest.approx(0.15)
    assert stats["clip_fraction"] == 1
    assert not torch.autograd.grad(loss, log_probs)[0].any()


def test_on_policy_it_is_minus_the_mean_advantage():
    loss, stats = GSPO().loss(PolicyScore(OLD.clone().requires_grad_()), batch([1.0, -2.0]))
    assert loss.item() == pytest.approx(0.5)
    assert stats["ratio_mean"] == 1


def test_kl_penalty_is_a_mean_over_each_completions_tokens():
    reference = PolicyScore(OLD - math.log(2))
    made = batch([0.0, 0.0])
    made = Minibatch(made.advantages, made.sampled, made.mask, reference)
    loss, stats = GSPO(kl_coef=0.1).loss(PolicyScore(OLD.clone().requires_grad_()), made)
    # k3 of r = 1/2 is 1/2 - 1 + ln 2 for every token.
    assert stats["kl"].item() == pytest.approx(math.log(2) - 0.5)
    assert loss.item() == pytest.approx(0.1 * (math.log(2) - 0.5))


def test_paper_defaults():
    objective = GSPO()
    assert (objective.clip_low, objective.clip_high, objective.average) == (3e-4, 4e-4, "samples")
