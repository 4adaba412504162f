"""GRPO-Guard: normalised ratios, losses over the step size."""

import pytest
import torch

from realgen.objectives import GRPO, GRPOGuard

ADVANTAGES = [1.0, -1.0, 2.0, 0.5]


def test_ratio_is_the_mean_of_noise_times_shift(toy):
    mean = toy.moved(0.1)
    _, stats = GRPOGuard().loss(toy.score(mean), toy.batch(ADVANTAGES))
    ratio = (toy.noise * (mean - toy.old_mean)).mean((2, 3, 4)).exp().detach()
    torch.testing.assert_close(stats["ratio_mean"], ratio.mean())
    torch.testing.assert_close(stats["ratio_max_deviation"], (ratio - 1).abs().max())


def test_loss_is_divided_by_the_step_size(toy):
    loss, stats = GRPOGuard().loss(toy.score(toy.moved()), toy.batch(ADVANTAGES))
    # On-policy: -mean A (1/0.1 + 1/0.2 + 1/0.4) / 3 = -0.625 * 17.5 / 3.
    assert loss.item() == pytest.approx(-0.625 * 17.5 / 3)
    assert stats["policy_loss"] == loss


def test_on_policy_gradient_in_closed_form(toy, gradient):
    mean = toy.moved()
    loss, _ = GRPOGuard().loss(toy.score(mean), toy.batch(ADVANTAGES))
    # d ln r / d mean = noise / 8 elements, without plain GRPO's 1 / std; over 12 decisions.
    scale = torch.tensor(ADVANTAGES, dtype=torch.float64).view(4, 1, 1, 1, 1) / toy.step_size[..., None, None, None]
    torch.testing.assert_close(gradient(loss, mean), -scale * toy.noise / 8 / 12, rtol=1e-10, atol=1e-16)


def test_kl_penalty_is_not_divided_by_the_step_size(toy):
    _, guard = GRPOGuard(kl_coef=0.1).loss(toy.score(toy.moved()), toy.batch(ADVANTAGES))
    _, plain = GRPO(kl_coef=0.1).loss(toy.score(toy.moved()), toy.batch(ADVANTAGES))
    assert guard["kl"] == plain["kl"]


def test_it_always_needs_gaussians():
    assert GRPOGuard().requires == {"gaussian"}
    assert GRPOGuard(kl="velocity", kl_coef=0.1).requires == {"gaussian", "velocity"}
    assert GRPOGuard(kl="latent", kl_coef=0.1).requires == {"gaussian"}
