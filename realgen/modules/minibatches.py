"""Cutting a rollout into minibatches (one optimizer update each) and microbatches (one backward pass each)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.policies.joined import select_rows
from realgen.types import Minibatch, PolicyScore, Rollout


def shuffled_minibatches(num_rows: int, updates: int, generator: torch.Generator) -> tuple[Int[Tensor, " picked"], ...]:
    """Permute the rows and deal them out to the updates.

    Args:
        num_rows: B.
        updates: Number of minibatches; divides B.
        generator: Source of the permutation.

    Returns:
        ``updates`` index tensors of B / updates rows each, on the CPU.

    Example:
        >>> parts = shuffled_minibatches(6, 2, torch.Generator().manual_seed(0))
        >>> sorted(torch.cat(parts).tolist()), [len(part) for part in parts]
        ([0, 1, 2, 3, 4, 5], [3, 3])
    """
    return torch.randperm(num_rows, generator=generator).split(num_rows // updates)


def rows_that_teach(rows: Int[Tensor, " picked"], advantages: Float[Tensor, " rows"]) -> Int[Tensor, " kept"]:
    """Rows whose advantage is not zero; the others add exactly zero to a gradient without a KL term.

    Args:
        rows: Rows of a minibatch.
        advantages: [B] one advantage per row of the rollout.

    Returns:
        The kept rows in the same order. If none would be left, the first row: its gradient is zero, and the update
        (momentum, weight decay) happens as it would with all rows.

    Example:
        >>> rows_that_teach(torch.tensor([2, 0, 1]), torch.tensor([0.0, 1.0, -1.0]))
        tensor([2, 1])
    """
    kept = rows[(advantages[rows] != 0).to(rows.device)]
    return kept if len(kept) else rows[:1]


def make_minibatch(
    rollout: Rollout,
    advantages: Float[Tensor, " rows"],
    reference: PolicyScore | None,
    rows: Int[Tensor, " picked"],
) -> Minibatch:
    """What the objective sees of the given rows."""
    return Minibatch(
        advantages=advantages[rows],
        sampled=select_rows(rollout.sampled, rows),
        mask=rollout.mask[rows],
        reference=None if reference is None else select_rows(reference, rows),
    )
