"""How losses of samples of different length are averaged: GRPO, DAPO and Dr.GRPO by hand, whole and in parts."""

from dataclasses import replace

import jaxtyping
import pytest
import torch

from realgen.objectives import GRPO, GSPO
from realgen.types import Minibatch, PolicyScore

MASK = torch.tensor([[True, True, True, True], [True, False, False, False], [True, True, False, False]])
OLD = torch.full((3, 4), -1.0, dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
RATIOS = torch.tensor([[1.1, 1.2, 1.5, 0.5], [0.7, 9.0, 9.0, 9.0], [0.9, 1.25, 9.0, 9.0]], dtype=torch.float64)
REFERENCE = OLD - 0.5
OBJECTIVES = {
    "dapo": GRPO(clip_low=0.2, clip_high=0.28),
    "grpo": GRPO(clip_low=0.2, clip_high=0.2, average="samples", kl="k3", kl_coef=0.04),
    "dr_grpo": GRPO(clip_low=0.2, clip_high=0.2, average="constant", most_decisions=10, kl="k2", kl_coef=0.1),
    "gspo": GSPO(clip_low=0.5, clip_high=0.5),
}


def batch() -> Minibatch:
    return Minibatch(ADVANTAGES, PolicyScore(OLD), MASK, PolicyScore(REFERENCE))


def log_probs() -> torch.Tensor:
    return (OLD + RATIOS.log()).requires_grad_()


def test_dapo_counts_every_token_alike():
    """Equation 8 of arXiv:2503.14476, clip 0.2 below and 0.28 above."""
    loss, stats = OBJECTIVES["dapo"].loss(PolicyScore(log_probs()), batch())
    # Row 1: 1.1 + 1.2 + 1.28 (clipped) + 0.5. Row 2: -2 * max(0.7, 0.8) = -1.6. Row 3: 0.5 * (0.9 + 1.25). 7 tokens.
    assert loss.item() == pytest.approx(-(4.08 - 1.6 + 1.075) / 7)
    assert stats["clip_fraction"].item() == pytest.approx(2 / 7)


def k3(ratio: float) -> float:
    """Of a token whose policy has moved by this ratio from OLD: r = reference / policy."""
    r = torch.tensor(-0.5, dtype=torch.float64).exp().item() / ratio
    return r - 1 - torch.tensor(r).log().item()


def test_grpo_takes_each_completions_own_mean():
    """Equations 3 and 4 of arXiv:2402.03300."""
    loss, stats = OBJECTIVES["grpo"].loss(PolicyScore(log_probs()), batch())
    surrogate = [(1.1 + 1.2 + 1.2 + 0.5) / 4, -1.6, 0.5 * (0.9 + 1.2) / 2]
    penalty = [sum(k3(r) for r in (1.1, 1.2, 1.5, 0.5)) / 4, k3(0.7), (k3(0.9) + k3(1.25)) / 2]
    assert stats["kl"].item() == pytest.approx(sum(penalty) / 3, rel=1e-5)
    assert loss.item() == pytest.approx(-sum(surrogate) / 3 + 0.04 * sum(penalty) / 3, rel=1e-5)


def test_dr_grpo_divides_by_a_constant():
    """Listing 1 of arXiv:2503.20783: the sum over tokens by the budget, then the mean over completions."""
    loss, stats = OBJECTIVES["dr_grpo"].loss(PolicyScore(log_probs()), batch())
    surrogate = (1.1 + 1.2 + 1.2 + 0.5) - 1.6 + 0.5 * (0.9 + 1.2)
    gaps = (RATIOS.log() + 0.5)[MASK]
    penalty = (gaps**2).sum().item() / 2 / 30
    assert stats["kl"].item() == pytest.approx(penalty)
    assert loss.item() == pytest.approx(-surrogate / 30 + 0.1 * penalty)


def test_gradients_of_unclipped_tokens():
    """-A r times the token's share: 1/7, 1/(3 * 4), 1/(3 * 10)."""
    for name, share in {"dapo": 1 / 7, "grpo": 1 / 12, "dr_grpo": 1 / 30}.items():
        objective = OBJECTIVES[name]
        objective = GRPO(0.25, 0.25, average=objective.average, most_decisions=objective.most_decisions)
        values = log_probs()
        loss, _ = objective.loss(PolicyScore(values), batch())
        (gradient,) = torch.autograd.grad(loss, values)
        assert gradient[0].tolist() == pytest.approx([-1.1 * share, -1.2 * share, 0.0, -0.5 * share])
        assert not gradient[~MASK].any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_parts_of_a_batch_add_up_to_it(name):
    objective = OBJECTIVES[name]
    whole, _ = objective.loss(PolicyScore(log_probs()), batch())
    weights = objective.row_weights(MASK)
    total = 0.0
    for rows in (slice(0, 2), slice(2, 3)):
        part = Minibatch(ADVANTAGES[rows], PolicyScore(OLD[rows]), MASK[rows], PolicyScore(REFERENCE[rows]))
        loss, _ = objective.loss(PolicyScore(log_probs()[rows]), part)
        total += loss * weights[rows].sum() / weights.sum()
    torch.testing.assert_close(total, whole)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_completion_without_decisions_teaches_nothing(name):
    mask = MASK.clone()
    mask[1] = False
    values = log_probs()
    loss, _ = OBJECTIVES[name].loss(PolicyScore(values), replace(batch(), mask=mask))
    (gradient,) = torch.autograd.grad(loss, values)
    assert loss.isfinite()
    assert not gradient[1].any()


def test_on_equal_lengths_decisions_and_samples_are_one():
    full = replace(batch(), mask=torch.ones_like(MASK))
    losses = [
        GRPO(0.2, 0.2, average=average, most_decisions=most).loss(PolicyScore(log_probs()), full)[0]
        for average, most in (("decisions", None), ("samples", None), ("constant", 4))
    ]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


@pytest.mark.parametrize(
    "settings",
    [{"average": "constant"}, {"most_decisions": 4}, {"average": "constant", "most_decisions": 0}],
)
def test_a_constant_needs_its_number(settings):
    with pytest.raises(
        ValueError, match="most_decisions must be at least 1 with average='constant' and null otherwise"
    ):
        GRPO(**settings)


def test_an_unknown_average_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"average must be one of decisions, samples, constant, got 'sample'; did you"):
        GRPO(average="sample")
