"""The forward-process family in float64: one gradient on-policy, and what each does apart from it off-policy."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from realgen.functional.matching import matching_error
from realgen.objectives import CRD, DGPO, GRPO, PEPG, RAM, DiffusionNFT, ForwardProcess
from realgen.types import Draw, Minibatch, PolicyScore

ROWS, DRAWS, LATENT = 6, 3, (2, 4, 4)
GROUP = 3
ADVANTAGES = [1.3, -0.4, -0.9, 2.0, -2.5, 0.5]


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TARGET = randn(0, ROWS, DRAWS, *LATENT)
SIGMA = torch.rand(ROWS, DRAWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.98 + 0.01
OLD = randn(2, ROWS, DRAWS, *LATENT)


def scored(velocity: torch.Tensor, error: str) -> PolicyScore:
    draw = Draw(TARGET, SIGMA, error)
    return PolicyScore(-matching_error(velocity, draw), velocity=velocity, draw=draw)


def batch(objective, error: str, *, reference: torch.Tensor = OLD, advantages: list[float] = ADVANTAGES) -> Minibatch:
    old = scored(OLD, error)
    made = Minibatch(
        torch.tensor(advantages, dtype=torch.float64),
        old,
        torch.ones(ROWS, DRAWS, dtype=torch.bool),
        scored(reference, error),
        {"old": old, "ema": old},
    )
    return replace(made, group_terms=objective.group_terms(made, GROUP)) if objective.uses_groups else made


def gradient(objective, error: str, at: torch.Tensor = OLD, **how) -> torch.Tensor:
    velocity = at.clone().requires_grad_()
    loss, _ = objective.loss(scored(velocity, error), batch(objective, error, **how))
    return torch.autograd.grad(loss, velocity)[0]


def weighted(error: str, advantages: list[float] = ADVANTAGES) -> torch.Tensor:
    """Gradient of mean(A e), the advantage-weighted matching error, by its formula."""
    difference, sigma = OLD - TARGET, SIGMA.view(ROWS, DRAWS, 1, 1, 1)
    size = math.prod(LATENT)
    if error == "uniform":
        slope = 2 * difference / size
    else:  # adaptive: the denominator has no gradient
        scale = (sigma * difference.abs()).mean((2, 3, 4), keepdim=True)
        slope = 2 * sigma**2 * difference / size / scale
    return torch.tensor(advantages, dtype=torch.float64).view(-1, 1, 1, 1, 1) * slope / (ROWS * DRAWS)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-12) -> None:
    assert float((found - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize(
    ("objective", "error", "factor"),
    [
        (ForwardProcess(), "adaptive", 1.0),
        (ForwardProcess(advantage_scale=0.2, average_coef=1.0), "uniform", 1.0),  # AWM
        (PEPG(), "adaptive", 1.0),
        (DiffusionNFT(beta=1.0), "adaptive", 1.0),
        (DiffusionNFT(beta=0.1), "adaptive", 1.0),
        (DGPO(), "uniform", 0.5),  # sigmoid(0)
        (RAM(), "uniform", 1.0),
        (CRD(kl_coef=0.0), "adaptive", 1.0),
        (CRD(kl_coef=0.0, beta=4.0), "adaptive", 1.0),
    ],
    ids=["EPG", "AWM", "PEPG", "NFT 1", "NFT 0.1", "DGPO", "RAM", "CRD", "CRD 4"],
)
def test_on_policy_each_gradient_is_that_of_the_advantage_weighted_error(objective, error: str, factor: float) -> None:
    groups = torch.tensor(ADVANTAGES, dtype=torch.float64).view(-1, GROUP)
    advantages = (groups - groups.mean(1, keepdim=True)).flatten().tolist()  # as a group's are
    close(gradient(objective, error, advantages=advantages), factor * weighted(error, advantages))


def test_the_loss_of_nft_does_not_depend_on_rewards_where_its_gradient_does() -> None:
    for beta in (0.1, 1.0):
        objective = DiffusionNFT(beta=beta)
        values = [
            objective.loss(scored(OLD, "adaptive"), batch(objective, "adaptive", advantages=a))[0]
            for a in (ADVANTAGES, ADVANTAGES[::-1], [0.0] * ROWS)
        ]
        torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)
        torch.testing.assert_close(values[0], values[2], rtol=1e-12, atol=0)


def test_nft_off_policy_by_hand() -> None:
    # One element: v* = 0, sigma = 1/2, v_old = 1, v = 2, A = 5 so that r = 1, beta = 1/2: v+ = 3/2, and
    # e(v+) = (1/4) (9/4) / (3/4) = 3/4; the loss is 5 * (3/4) / (1/2).
    objective = DiffusionNFT(beta=0.5)
    draw = Draw(torch.zeros(1, 1, 1), torch.full((1, 1), 0.5), "adaptive")
    old, new = (PolicyScore(torch.zeros(1, 1), velocity=torch.full((1, 1, 1), v), draw=draw) for v in (1.0, 2.0))
    made = Minibatch(torch.tensor([5.0]), old, torch.ones(1, 1, dtype=torch.bool))
    assert float(objective.loss(new, made)[0]) == pytest.approx(7.5)


def test_pepg_stops_where_the_log_ratio_has_reached_the_advantage() -> None:
    objective, velocity = PEPG(), OLD + 0.1 * randn(3, *OLD.shape)
    gained = (scored(velocity, "uniform").log_probs - scored(OLD, "uniform").log_probs)[:, 0]
    found = gradient(objective, "uniform", velocity, advantages=gained.tolist())
    assert found[:, 0].abs().max() < 1e-15
    assert found[:, 1:].abs().min() > 0


def test_pepg_and_par_have_one_gradient() -> None:
    velocity = (OLD + 0.1 * randn(3, *OLD.shape)).requires_grad_()
    gain = scored(velocity, "adaptive").log_probs - scored(OLD, "adaptive").log_probs
    advantages = torch.tensor(ADVANTAGES, dtype=torch.float64).unsqueeze(1)
    par = (gain.detach().exp() * (advantages - gain).square() / 2).mean()
    close(gradient(PEPG(), "adaptive", velocity.detach()), torch.autograd.grad(par, velocity)[0])


def test_epg_off_policy_weighs_by_the_ratio_as_grpo_without_a_clip() -> None:
    velocity = OLD + 0.1 * randn(3, *OLD.shape)
    grpo = GRPO(clip_low=1.0, clip_high=math.inf)
    assert torch.equal(gradient(ForwardProcess(), "t", velocity), gradient(grpo, "t", velocity))


def test_ram_regresses_to_the_corrected_reference() -> None:
    reference = randn(4, *OLD.shape)
    wanted = reference + torch.tensor(ADVANTAGES, dtype=torch.float64).view(-1, 1, 1, 1, 1) * (TARGET - OLD)
    assert gradient(RAM(), "uniform", wanted, reference=reference).abs().max() < 1e-17
    loss, _ = RAM().loss(scored(OLD, "uniform"), batch(RAM(), "uniform", reference=reference))
    assert float(loss) == pytest.approx(float((OLD - wanted).square().mean()), rel=1e-12)


def test_dgpo_weighs_a_group_by_its_preference() -> None:
    reference = OLD + 0.3 * randn(5, *OLD.shape)
    found = gradient(DGPO(beta=2.0), "uniform", reference=reference)
    gained = ((OLD - TARGET).square() - (reference - TARGET).square()).mean((2, 3, 4)).view(2, GROUP, DRAWS)
    advantages = torch.tensor(ADVANTAGES, dtype=torch.float64).view(2, GROUP, 1)
    weights = torch.sigmoid(2.0 * (advantages * gained).mean(1, keepdim=True)).expand(2, GROUP, DRAWS)
    close(found, weighted("uniform") * weights.reshape(ROWS, DRAWS, 1, 1, 1))


def test_dgpo_leaves_alone_what_has_moved_far_enough() -> None:
    nearer = TARGET + 0.5 * (OLD - TARGET)  # every error has fallen
    found = gradient(DGPO(error_clip=0.01), "uniform", nearer)
    good = torch.tensor(ADVANTAGES) > 0
    assert found[good].abs().max() == 0
    assert found[~good].abs().min() > 0


def test_crd_holds_good_samples_nearer_to_the_reference() -> None:
    objective = CRD(kl_coef=1.0, least_penalty=0.25)
    made = batch(objective, "adaptive", reference=OLD + 1.0, advantages=[5.0, -5.0, 0.0, 5.0, -5.0, 0.0])
    penalty = objective.penalty(scored(OLD, "adaptive"), made)
    assert penalty.mean(1).tolist() == pytest.approx([1.0, 0.25, 0.625] * 2)


def test_rewards_past_the_clip_scale_with_the_advantages() -> None:
    plain, scaled = DiffusionNFT(), DiffusionNFT(advantage_scale=0.1)
    tenth = [a / 10 for a in ADVANTAGES]
    close(gradient(scaled, "adaptive", advantages=tenth), gradient(plain, "adaptive") / 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ForwardProcess(advantage_scale=0.0), "advantage_scale must be above 0"),
        (lambda: ForwardProcess(average_coef=-1.0), "average_coef must be at least 0"),
        (lambda: DiffusionNFT(beta=0.0), "beta must be above 0"),
        (lambda: DiffusionNFT(advantage_clip=math.inf), "advantage_clip must be finite"),
        (lambda: DGPO(beta=-1.0), "beta must be above 0"),
        (lambda: DGPO(error_clip=0.0), "error_clip must be above 0"),
        (lambda: CRD(least_penalty=2.0), "least_penalty must be 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
