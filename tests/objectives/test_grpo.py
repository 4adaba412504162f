"""GRPO: loss, KL penalty and advantages by hand; settings that make no sense are refused."""

import math
from dataclasses import replace

import jaxtyping
import pytest
import torch

from realgen.objectives import GRPO
from realgen.types import RewardOutput

ADVANTAGES = [1.0, -1.0, 2.0, 0.5]


def rewards(**parts: list[list[float]]) -> RewardOutput:
    tensors = {name: torch.tensor(values) for name, values in parts.items()}
    weights = dict(zip(tensors, (1.0, 3.0), strict=False))
    total = sum(weights[name] * values for name, values in tensors.items())
    return RewardOutput(total=total, components=tensors, weights=weights)


def test_on_policy_gradient_is_the_policy_gradient(toy, gradient):
    mean = toy.moved()
    loss, _ = GRPO().loss(toy.score(mean), toy.batch(ADVANTAGES))
    # -A d log p / d mean, with d log p / d mean = noise / std / 8 elements, over 12 decisions.
    scale = torch.tensor(ADVANTAGES, dtype=torch.float64).view(4, 1, 1, 1, 1) / toy.std[..., None, None, None]
    torch.testing.assert_close(gradient(loss, mean), -scale * toy.noise / 8 / 12, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("correction", "weights"),
    [
        ("truncate", [[0.5, 1.0, 2.0], [2.0, 2.0, 1.0], [1.0, 1.0, 1.0], [0.25, 1.0, 1.0]]),
        ("mask", [[1.0] * 3, [0.0] * 3, [1.0] * 3, [1.0] * 3]),  # mean ln r of the second sample is 4/3 ln 2
    ],
)
def test_what_an_engine_drew_counts_as_the_policy_would_have_it(toy, gradient, correction, weights):
    mean, batch = toy.moved(), toy.batch(ADVANTAGES)
    ratios = torch.tensor([[0.5, 1.0, 2.0], [4.0, 4.0, 1.0], [1.0, 1.0, 1.0], [0.25, 1.0, 1.0]], dtype=torch.float64)
    sampled = replace(batch.sampled, engine_log_probs=batch.sampled.log_probs - ratios.log())
    loss, stats = GRPO(engine_correction=correction).loss(toy.score(mean), replace(batch, sampled=sampled))
    plain, _ = GRPO().loss(toy.score(mean), batch)
    kept = torch.tensor(weights, dtype=torch.float64)
    expected = gradient(plain, mean) * kept[..., None, None, None]
    torch.testing.assert_close(gradient(loss, mean), expected, rtol=1e-12, atol=0)
    assert stats["engine_weight"].item() == pytest.approx(kept.mean().item())


def test_an_engine_s_correction_is_of_a_policy_that_has_an_engine() -> None:
    assert GRPO(engine_correction="mask").requires == {"engine_log_probs"}
    with pytest.raises(ValueError, match=r"engine_limit must be finite and above 1, got 1"):
        GRPO(engine_limit=1.0)


def test_clip_holds_back_rows_that_went_far_enough(toy, gradient):
    mean = toy.moved(0.3)
    loss, stats = GRPO(clip_low=0.01, clip_high=0.02).loss(toy.score(mean), toy.batch(ADVANTAGES))
    ratio = (toy.score(mean).log_probs - toy.score(toy.old_mean).log_probs).exp().detach()
    good = torch.tensor([True, False, True, True]).view(4, 1)
    held = torch.where(good, ratio > 1.02, ratio < 0.99)
    assert 0 < held.sum() < 12
    assert stats["clip_fraction"].item() == pytest.approx(held.sum().item() / 12)
    assert torch.equal(gradient(loss, mean).flatten(2).abs().sum(-1) == 0, held)
    torch.testing.assert_close(stats["ratio_mean"], ratio.mean())
    torch.testing.assert_close(stats["ratio_max_deviation"], (ratio - 1).abs().max())
    torch.testing.assert_close(stats["approx_kl"], (ratio - 1 - ratio.log()).mean())


@pytest.mark.parametrize(("kl", "part"), [("latent", "gaussian"), ("velocity", "velocity"), ("k2", None), ("k3", None)])
def test_kl_penalty_asks_for_what_it_needs_only_when_it_pulls(kl, part):
    slack, tight = GRPO(kl=kl), GRPO(kl=kl, kl_coef=0.1)
    assert slack.requires == frozenset()
    assert not slack.needs_reference
    assert tight.requires == ({part} if part else set())
    assert tight.needs_reference


def expected_kl(toy, kl: str) -> torch.Tensor:
    """Mean divergence of the sampling policy from the reference."""
    gap = (toy.old_mean - toy.ref_mean).square().mean((2, 3, 4))
    log_ratio = toy.score(toy.ref_mean).log_probs - toy.score(toy.old_mean).log_probs
    return {
        "latent": gap / (2 * toy.std**2),
        "velocity": 4 * gap,  # the toy's velocity is twice its mean
        "k2": log_ratio**2 / 2,
        "k3": log_ratio.exp() - 1 - log_ratio,
    }[kl].mean()


@pytest.mark.parametrize("kl", ["latent", "velocity", "k2", "k3"])
def test_kl_penalty_is_added_with_its_weight(toy, kl):
    # On-policy the surrogate is -mean A = -0.625.
    loss, stats = GRPO(kl=kl, kl_coef=0.1).loss(toy.score(toy.moved()), toy.batch(ADVANTAGES))
    torch.testing.assert_close(stats["kl"], expected_kl(toy, kl))
    torch.testing.assert_close(loss.detach(), -0.625 + 0.1 * expected_kl(toy, kl))
    assert stats["policy_loss"].item() == pytest.approx(-0.625)
    assert not stats["kl"].requires_grad


@pytest.mark.parametrize("kl", ["latent", "velocity"])
def test_kl_penalty_pulls_towards_the_reference(toy, gradient, kl):
    mean = toy.moved()
    loss, _ = GRPO(kl=kl, kl_coef=0.1).loss(toy.score(mean), toy.batch([0.0] * 4))
    direction = torch.cosine_similarity(
        -gradient(loss, mean).flatten(2), (toy.ref_mean - toy.old_mean).flatten(2), dim=-1
    )
    torch.testing.assert_close(direction, torch.ones_like(direction))


def test_kl_penalty_without_reference_is_refused(toy):
    batch = replace(toy.batch(ADVANTAGES), reference=None)
    with pytest.raises(ValueError, match=r"kl_coef=0.1 needs the reference's score"):
        GRPO(kl_coef=0.1).loss(toy.score(toy.moved()), batch)


def test_tokens_need_neither_gaussian_nor_velocity(toy):
    def tokens(score):
        return replace(score, gaussian=None, velocity=None)

    batch = toy.batch(ADVANTAGES)
    batch = replace(batch, sampled=tokens(batch.sampled), reference=tokens(batch.reference))
    loss, _ = GRPO(clip_low=0.2, clip_high=0.2, kl="k3", kl_coef=0.01).loss(tokens(toy.score(toy.moved())), batch)
    assert loss.isfinite()


def test_group_std_puts_rewards_on_one_scale():
    output = rewards(realism=[[0.0, 1.0]], alignment=[[30.0, 10.0]])  # weights 1 and 3
    advantages = GRPO().advantages(output)
    torch.testing.assert_close(advantages, torch.tensor([[0.5, -0.5]]), atol=2e-4, rtol=0)
    advantages = GRPO(divide_by_weights=False).advantages(output)
    torch.testing.assert_close(advantages, torch.tensor([[2.0, -2.0]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("advantage_std", ["global", "pooled"])
def test_one_std_for_all_prompts_has_the_spread_between_them_or_not(advantage_std):
    apart = rewards(realism=[[1.0, 3.0], [11.0, 13.0], [float("nan"), 7.0]], alignment=[[2.0, 2.0]] * 3)
    if advantage_std == "global":
        std = torch.tensor([1.0, 3.0, 11.0, 13.0, 7.0]).std(correction=0).item()
    else:
        std = (4 / 5) ** 0.5  # the lone valid sample of the third prompt is its own mean
    advantages = GRPO(advantage_std=advantage_std).advantages(apart)
    expected = torch.tensor([[-1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]) / std / 4  # weights 1 and 3
    torch.testing.assert_close(advantages, expected, atol=1e-3, rtol=0)


def test_the_sum_over_rewards_is_normalised_over_the_batch():
    output = rewards(realism=[[0.0, 1.0], [0.5, 0.5]], alignment=[[30.0, 10.0], [10.0, 30.0]])
    advantages = GRPO(normalize_sum=True).advantages(output)
    assert advantages.square().mean().sqrt().item() == pytest.approx(1, abs=1e-3)
    plain = GRPO().advantages(output)
    torch.testing.assert_close(advantages, plain / plain.square().mean().sqrt(), atol=1e-3, rtol=0)


def test_no_std_keeps_the_scale_of_the_reward():
    advantages = GRPO(advantage_std="none").advantages(rewards(realism=[[0.25, 0.75]]))
    assert advantages.tolist() == [[-0.25, 0.25]]


def test_advantages_are_clipped():
    outlier = rewards(realism=[[1.0] + [0.0] * 99])  # mean 0.01, std 0.0995: the one is 9.9 deviations away
    assert GRPO(advantage_clip=5.0).advantages(outlier).max() == 5.0
    assert GRPO(advantage_clip=math.inf).advantages(outlier).max().item() == pytest.approx(9.94, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_low": -1e-4}, "clip_low must be 0 to 1, got -0.0001"),
        ({"clip_low": 1.5}, "clip_low must be 0 to 1, got 1.5"),
        ({"clip_high": -0.1}, "clip_high must be at least 0, got -0.1"),
        ({"clip_high": math.nan}, "clip_high must be at least 0, got nan"),
        ({"advantage_clip": 0.0}, r"advantage_clip must be above 0 \(.inf for none\), got 0.0"),
        ({"kl_coef": -1.0}, "kl_coef must be finite and at least 0, got -1.0"),
        ({"kl_coef": math.inf}, "kl_coef must be finite and at least 0, got inf"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GRPO(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl": "velocty"}, r"kl must be one of latent, velocity, k2, k3, got 'velocty'; did you mean 'velocity'\?$"),
        (
            {"advantage_std": "globl"},
            r"must be one of group, global, pooled, none, got 'globl'; did you mean",
        ),
        ({"advantage_std": "xyz"}, r"got 'xyz'\.$"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(monkeypatch, settings, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # off as in training, or it objects first
    with pytest.raises(ValueError, match=message):
        GRPO(**settings)
