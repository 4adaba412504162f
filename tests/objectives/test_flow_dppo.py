"""Flow-DPPO's mask by its definition, on every transition, and the growth of the velocity's norm."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from realgen.functional import CPS, DanceSDE, FlowSDE
from realgen.functional.flow_sde import gaussian_log_prob
from realgen.objectives import GRPO, FlowDPPO
from realgen.types import Gaussian, Minibatch, PolicyScore

ADVANTAGES = [1.0, -1.0, 2.0, -0.5]


def test_without_a_region_it_is_grpo_without_a_clip(toy, gradient) -> None:
    mean, batch = toy.moved(0.05), toy.batch(ADVANTAGES)
    found = gradient(FlowDPPO(trust_region=math.inf).loss(toy.score(mean), batch)[0], mean)
    plain = gradient(GRPO(clip_low=1.0, clip_high=math.inf).loss(toy.score(mean), batch)[0], mean)
    assert torch.equal(found, plain)


def test_on_policy_nothing_is_left_alone_whatever_the_region(toy, gradient) -> None:
    mean, batch = toy.moved(), toy.batch(ADVANTAGES)
    loss, stats = FlowDPPO(trust_region=1e-12).loss(toy.score(mean), batch)
    assert (stats["divergence"], stats["clip_fraction"]) == (0, 0)
    plain = gradient(GRPO(clip_low=1.0, clip_high=math.inf).loss(toy.score(mean), batch)[0], mean)
    assert torch.equal(gradient(loss, mean), plain)


def test_only_what_has_moved_the_wanted_way_and_too_far_is_left_alone(toy, gradient) -> None:
    mean, batch = toy.moved(0.05), toy.batch(ADVANTAGES)
    score = toy.score(mean)
    moved = ((mean - toy.old_mean).square().mean((2, 3, 4)) / (2 * toy.std**2)).detach()
    region = float(moved.median())
    wanted = torch.tensor(ADVANTAGES).unsqueeze(1) * (score.log_probs - batch.sampled.log_probs) > 0
    expected = wanted & (moved > region)
    assert 0 < expected.sum() < wanted.sum() < 12
    loss, stats = FlowDPPO(trust_region=region).loss(score, batch)
    still = (gradient(loss, mean).abs().amax((2, 3, 4)) == 0).detach()
    assert torch.equal(still, expected)
    assert float(stats["clip_fraction"]) == pytest.approx(float(expected.double().mean()))
    assert float(stats["divergence"]) == pytest.approx(float(moved.mean()), rel=1e-12)


@pytest.mark.parametrize("transition", [FlowSDE(0.7), DanceSDE(0.3), CPS(0.7)])
def test_the_divergence_is_torch_s_own_on_every_transition(transition) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, old, new, noise = (torch.randn(2, 3, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(4))
    sigma = torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64).expand(2, 3)
    scores = []
    for velocity in (old, old + 0.01 * new):
        mean, std = transition.step(latents, velocity, sigma, sigma - 0.1, 0.95)
        sample = scores[0].gaussian.sample if scores else mean + std[..., None, None, None] * noise
        gaussian = Gaussian(mean, std, torch.full_like(std, 0.1), sample)
        scores.append(PolicyScore(gaussian_log_prob(sample, mean, std), gaussian))
    batch = Minibatch(torch.ones(2, dtype=torch.float64), scores[0], torch.ones(2, 3, dtype=torch.bool))
    spread = scores[0].gaussian.std[..., None, None, None]
    one, other = (torch.distributions.Normal(score.gaussian.mean, spread) for score in scores)
    expected = torch.distributions.kl_divergence(one, other).mean()
    stats = FlowDPPO(trust_region=1.0).loss(scores[1], batch)[1]
    assert float(stats["divergence"]) == pytest.approx(float(expected), rel=1e-9)


def test_a_region_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="trust_region must be above 0"):
        FlowDPPO(trust_region=0.0)


def test_only_growth_of_the_norm_is_penalised(toy, gradient) -> None:
    objective, batch = GRPO(norm_coef=2.0), toy.batch([0.0] * 4)
    assert objective.needs_reference
    assert objective.requires == {"velocity"}
    for factor, expected in ((1.1, 0.2), (0.9, 0.0)):
        mean = (factor * toy.old_mean).requires_grad_()
        loss, stats = objective.loss(toy.score(mean), replace(batch, reference=toy.score(toy.old_mean)))
        assert float(stats["norm_ratio"]) == pytest.approx(factor)
        assert float(loss) == pytest.approx(expected)
        assert (gradient(loss, mean).abs().max() > 0) == (factor > 1)


def test_the_norm_is_logged_wherever_the_reference_is_computed(toy) -> None:
    score = toy.score(toy.moved(0.01))
    assert "norm_ratio" in GRPO(kl="latent", kl_coef=0.1).loss(score, toy.batch(ADVANTAGES))[1]
    assert "norm_ratio" not in GRPO().loss(score, toy.batch(ADVANTAGES))[1]
    with pytest.raises(ValueError, match="norm_coef must be finite and at least 0"):
        GRPO(norm_coef=-1.0)
