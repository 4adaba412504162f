from __future__ import annotations

import torch

from realgen.modules.minibatches import make_minibatch, rows_that_teach
from realgen.types import Gaussian, PolicyScore, Rollout


def score(rows: int, *, full: bool = True) -> PolicyScore:
    steps = torch.arange(rows * 2.0).view(rows, 2)
    latents = torch.arange(rows * 6.0).view(rows, 2, 3)
    return PolicyScore(steps, Gaussian(latents, steps + 1, steps + 2), -latents) if full else PolicyScore(steps)


def test_rows_that_teach_never_leaves_nothing() -> None:
    assert rows_that_teach(torch.tensor([2, 1]), torch.zeros(3)).tolist() == [2]


def test_make_minibatch_lines_rows_up() -> None:
    sampled = score(3)
    mask = torch.tensor([[True, True], [True, False], [False, True]])
    rollout = Rollout(("a", "b", "c"), 1, torch.zeros(3, 3, 2, 2), sampled, mask)
    batch = make_minibatch(rollout, torch.tensor([1.0, 2.0, 3.0]), sampled, torch.tensor([2, 0]))
    assert batch.advantages.tolist() == [3, 1]
    assert batch.mask.tolist() == [[False, True], [True, True]]
    assert batch.sampled.log_probs.tolist() == batch.reference.log_probs.tolist() == [[4, 5], [0, 1]]
    assert make_minibatch(rollout, torch.zeros(3), None, torch.tensor([0])).reference is None
