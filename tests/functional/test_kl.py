"""KL terms against torch.distributions, and exactly summed expectations."""

import math

import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from realgen.functional.kl import gaussian_kl, k2, k3, velocity_kl


def test_gaussian_kl_agrees_with_torch():
    generator = torch.Generator().manual_seed(0)
    mean, ref_mean = (torch.randn(3, 2, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    std = torch.linspace(0.1, 2.0, 6, dtype=torch.float64).view(3, 2)
    wide = std[..., None, None, None]
    expected = kl_divergence(Normal(mean, wide), Normal(ref_mean, wide)).mean((2, 3, 4))
    torch.testing.assert_close(gaussian_kl(mean, ref_mean, std), expected)


def test_velocity_kl_is_the_mean_square_of_each_decision():
    velocity = torch.zeros(1, 2, 2, 1, 1)
    velocity[0, 1] = torch.tensor([3.0, 1.0]).view(2, 1, 1)
    assert velocity_kl(velocity, torch.zeros_like(velocity)).tolist() == [[0.0, 5.0]]


@pytest.fixture
def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of all 4 tokens under policy and reference, [1, 4] each."""
    policy = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    reference = torch.tensor([[0.3, 0.3, 0.3, 0.1]], dtype=torch.float64)
    return policy.log(), reference.log()


def test_k3_is_unbiased(tokens):
    policy, reference = tokens
    expectation = (policy.exp() * k3(policy, reference)).sum()
    torch.testing.assert_close(expectation, kl_divergence(Categorical(logits=policy), Categorical(logits=reference))[0])


def test_k2_has_the_gradient_of_the_kl_when_averaged_over_samples(tokens):
    policy, reference = tokens
    logits = policy.clone().requires_grad_()
    # Samples are drawn from the policy, so their frequencies carry no gradient.
    (policy.exp() * k2(logits.log_softmax(-1), reference)).sum().backward()
    exact = policy.clone().requires_grad_()
    kl_divergence(Categorical(logits=exact), Categorical(logits=reference)).sum().backward()
    torch.testing.assert_close(logits.grad, exact.grad)


def test_k2_and_k3_are_never_negative(tokens):
    policy, reference = tokens
    assert (k2(policy, reference) >= 0).all()
    assert (k3(policy, reference) >= 0).all()


def test_k3_keeps_its_digits_at_the_small_ratios_of_diffusion():
    shift = 1e-5
    estimate = k3(torch.tensor([[0.0]]), torch.tensor([[shift]]))
    # e^x - 1 - x = x^2 / 2 + x^3 / 6 + ...; written out in float32 it would be 0 or 1e-7, not 5e-11.
    assert estimate.item() == pytest.approx(math.expm1(shift) - shift, rel=0.05)
