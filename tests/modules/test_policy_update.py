from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from realgen.modules.policy_update import PolicyUpdate, nonzero_advantage_rows
from realgen.modules.seeds import iteration_generator
from realgen.objectives import GRPO
from realgen.types import Gaussian, PolicyScore, Rollout
from tests.helpers.toy_grpo import GaussianPolicy

ROWS = torch.arange(8)


def update(change: Any = lambda rollout: rollout, advantages: Tensor | None = None, **settings: Any) -> PolicyUpdate:
    policy = GaussianPolicy(dtype=torch.float64)
    policy.load()
    rollout: Rollout = change(policy.rollout(["a", "a cat"], 4, generator=iteration_generator(0, 0, 0)))
    objective = settings.pop("objective", GRPO(clip_low=0.2, clip_high=0.2))
    defaults = {"microbatch_size": 3, "tolerance": 0.0, "skip_zero_advantages": True}
    given = torch.tensor([1.0, -1, 2, -2, 1, -1, 0, 0], dtype=torch.float64) if advantages is None else advantages
    return PolicyUpdate(policy, objective, rollout, given, None, **{**defaults, **settings})


def gradient(made: PolicyUpdate) -> Tensor:
    loss, _ = made.gradients(ROWS, made.policy, torch.Tensor.backward, first_update=False)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in made.policy.trainable_parameters().values()])


def test_microbatches_add_up() -> None:
    whole = gradient(update(microbatch_size=8))
    assert float(whole.abs().max()) > 1e-3
    for size in (1, 3):
        torch.testing.assert_close(gradient(update(microbatch_size=size)), whole, rtol=1e-12, atol=0)


def test_rows_without_advantage_are_spared_and_the_gradient_stays() -> None:
    spared, all_rows = update(), update(skip_zero_advantages=False)
    torch.testing.assert_close(gradient(spared), gradient(all_rows), rtol=1e-12, atol=0)
    assert (spared.policy.scored_rows, all_rows.policy.scored_rows) == (6, 8)


def test_where_no_decision_counts_the_gradient_is_zero() -> None:
    """All completions of a minibatch may have been cut off, and be masked."""
    for size in (3, 8):
        made = update(lambda rollout: replace(rollout, mask=torch.zeros_like(rollout.mask)), microbatch_size=size)
        loss, statistics = made.gradients(ROWS, made.policy, torch.Tensor.backward, first_update=True)
        loss.backward()
        assert all(float(p.grad.abs().max()) == 0 for p in made.policy.trainable_parameters().values())
        assert all(bool(value.isfinite()) for value in statistics.values())


def test_statistics_bear_the_prefix() -> None:
    _, statistics = update(prefix="image/").gradients(ROWS, GaussianPolicy(), lambda loss: None, first_update=False)
    assert set(statistics) == {
        f"image/objective/{name}"
        for name in ("policy_loss", "ratio_mean", "ratio_max_deviation", "clip_fraction", "approx_kl")
    }


def test_nonzero_advantage_rows_never_leaves_nothing() -> None:
    assert nonzero_advantage_rows(torch.tensor([2, 1]), torch.zeros(3)).tolist() == [2]


def test_a_minibatch_has_its_rows_in_every_field() -> None:
    steps, latents = torch.arange(6.0).view(3, 2), torch.arange(18.0).view(3, 2, 3)
    sampled = PolicyScore(steps, Gaussian(latents, steps + 1, steps + 2, 2 * latents), -latents)
    mask = torch.tensor([[True, True], [True, False], [False, True]])
    rollout = Rollout(("a", "b", "c"), 1, torch.zeros(3, 3, 2, 2), sampled, mask)
    settings = {"microbatch_size": 3, "tolerance": 0.0, "skip_zero_advantages": True}
    policy, objective, advantages = update().policy, GRPO(clip_low=0.2, clip_high=0.2), torch.tensor([1.0, 2.0, 3.0])
    made = PolicyUpdate(policy, objective, rollout, advantages, sampled, **settings)
    batch = made.minibatch(torch.tensor([2, 0]), sampled)
    assert batch.advantages.tolist() == [3, 1]
    assert batch.mask.tolist() == [[False, True], [True, True]]
    assert batch.sampled.log_probs.tolist() == batch.reference.log_probs.tolist() == [[4, 5], [0, 1]]
    made = PolicyUpdate(policy, objective, rollout, advantages, None, **settings)
    assert made.minibatch(torch.arange(1), sampled).reference is None
