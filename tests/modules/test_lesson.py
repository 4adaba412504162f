from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from realgen.modules.lesson import Lesson
from realgen.modules.seeds import iteration_generator
from realgen.objectives import GRPO
from realgen.types import Rollout
from tests.helpers.toy_grpo import GaussianPolicy

ROWS = torch.arange(8)


def lesson(change: Any = lambda rollout: rollout, advantages: Tensor | None = None, **settings: Any) -> Lesson:
    policy = GaussianPolicy(dtype=torch.float64)
    policy.load()
    rollout: Rollout = change(policy.rollout(["a", "a cat"], 4, generator=iteration_generator(0, 0, 0)))
    objective = settings.pop("objective", GRPO(clip_low=0.2, clip_high=0.2))
    defaults = {"microbatch_size": 3, "tolerance": 0.0, "skip_zero_advantages": True}
    given = torch.tensor([1.0, -1, 2, -2, 1, -1, 0, 0], dtype=torch.float64) if advantages is None else advantages
    return Lesson(policy, objective, rollout, given, None, **{**defaults, **settings})


def gradient(told: Lesson) -> Tensor:
    loss, _ = told.study(ROWS, told.policy, torch.Tensor.backward, watch=False)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in told.policy.trainable_parameters().values()])


def test_microbatches_add_up() -> None:
    whole = gradient(lesson(microbatch_size=8))
    assert float(whole.abs().max()) > 1e-3
    for size in (1, 3):
        torch.testing.assert_close(gradient(lesson(microbatch_size=size)), whole, rtol=1e-12, atol=0)


def test_rows_without_advantage_are_spared_and_the_gradient_stays() -> None:
    spared, all_rows = lesson(), lesson(skip_zero_advantages=False)
    torch.testing.assert_close(gradient(spared), gradient(all_rows), rtol=1e-12, atol=0)
    assert (spared.policy.scored_rows, all_rows.policy.scored_rows) == (6, 8)


def test_where_no_decision_counts_the_gradient_is_zero() -> None:
    """All completions of a minibatch may have been cut off, and be masked."""
    for size in (3, 8):
        told = lesson(lambda rollout: replace(rollout, mask=torch.zeros_like(rollout.mask)), microbatch_size=size)
        loss, statistics = told.study(ROWS, told.policy, torch.Tensor.backward, watch=True)
        loss.backward()
        told.guard.check()
        assert all(float(p.grad.abs().max()) == 0 for p in told.policy.trainable_parameters().values())
        assert all(bool(value.isfinite()) for value in statistics.values())


def test_statistics_bear_the_prefix() -> None:
    _, statistics = lesson(prefix="image/").study(ROWS, GaussianPolicy(), lambda loss: None, watch=False)
    assert set(statistics) == {
        f"image/objective/{name}"
        for name in ("policy_loss", "ratio_mean", "ratio_max_deviation", "clip_fraction", "approx_kl")
    }
