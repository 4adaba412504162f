"""The update of one policy from one rollout: minibatches, microbatches, their gradients, and the on-policy check."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from realgen.modules.on_policy import OnPolicyError, off_policy_cause
from realgen.modules.statistics import combine_microbatches
from realgen.objectives.base import Objective
from realgen.parallel import (
    any_rank,
    gather_first_axis,
    gradient_sync,
    is_sharded,
    local_part,
    max_over_ranks,
    reshard,
    world_size,
)
from realgen.policies.base import Policy, Progress
from realgen.types import Minibatch, PolicyScore, Rollout


class PolicyUpdate:
    """Gradients of an objective's loss over minibatches of a rollout.

    Construct it right after the rollout: it remembers the weights that sampled. GRPO assumes that the first update is
    on-policy, that is, that scoring the rollout again gives the same log-probabilities; ``gradients`` checks it.

    Args:
        policy: The policy to train.
        objective: Computes the loss.
        rollout: What the policy has just sampled.
        advantages: One per row.
        reference: The reference's score of all rows, where the objective needs it.
        microbatch_size: Rows per forward and backward pass.
        tolerance: Largest |ln ratio| that passes before the first update. Make it small against the clip range.
        skip_zero_advantages: Skip rows that add nothing, where that is exact.
        prefix: Of the names of its statistics.
        progress: Called after each microbatch.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        rollout: Rollout,
        advantages: Float[Tensor, " rows"],
        reference: PolicyScore | None,
        *,
        microbatch_size: int,
        tolerance: float,
        skip_zero_advantages: bool,
        prefix: str = "",
        progress: Progress | None = None,
    ) -> None:
        self.policy = policy
        self.objective = objective
        self.rollout = rollout
        self.advantages = advantages
        self.reference = reference
        self.microbatch_size = microbatch_size
        self.tolerance = tolerance
        self.prefix = prefix
        self.progress = progress
        # Shards are gathered in every forward pass, so no rank may leave out rows on its own.
        sharded = world_size() > 1 and is_sharded(policy)
        self.may_skip = skip_zero_advantages and not objective.needs_reference and not sharded
        self.deviation = torch.zeros((), device=rollout.sampled.log_probs.device)
        """Largest |ln ratio| before the first update; of all ranks after the check."""
        self._fingerprint = weight_fingerprint(policy)

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.rollout.mask)

    @property
    def maxima(self) -> frozenset[str]:
        """Names of the statistics that are joined by their maximum; see ``Objective.maxima``."""
        return frozenset(f"{self.prefix}objective/{name}" for name in self.objective.maxima)

    def gradients(
        self, rows: Int[Tensor, " picked"], model: nn.Module, backward: Callable[[Tensor], None], *, first_update: bool
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Accumulate the gradients of the loss over a minibatch, but for those of its last microbatch.

        The loss is a mean over the decisions of all ranks, and gradients are averaged over the ranks: each microbatch
        counts with its share of what a rank's minibatch holds on average. Every rank must call it.

        Args:
            rows: The minibatch.
            model: As the strategy wrapped it; gradients are only accumulated, not yet averaged over the ranks.
            backward: The module's backward pass.
            first_update: Whether the weights are still those that sampled, so that the ratio must be 1.

        Returns:
            The last microbatch's share of the loss, and statistics of the minibatch. That loss is left to the caller
            because DDP averages over the ranks in one backward pass, which must reach the weights of all policies.

        Raises:
            OnPolicyError: If ``first_update`` and a ratio is not 1; the message names the likely cause.
        """
        kept = nonzero_advantage_rows(rows, self.advantages) if self.may_skip else rows
        microbatches = kept.split(self.microbatch_size)
        shares = self._shares(rows, microbatches)
        statistics = []
        loss = torch.zeros(())
        for index, (part, share) in enumerate(zip(microbatches, shares, strict=True)):
            batch = self.minibatch(part)
            with gradient_sync(model, enabled=False):
                score = self.policy.score(self.rollout, part)
                loss, values = self.objective.loss(score, batch)
                loss = loss * share
                if index + 1 < len(microbatches):
                    backward(loss)
            statistics.append(values)
            if first_update:
                difference = (score.log_probs.detach() - batch.sampled.log_probs).abs()
                # amax propagates NaN, so a policy that scores NaN does not pass.
                largest = torch.where(batch.mask, difference, 0.0).amax()
                self.deviation = torch.stack([self.deviation, largest]).amax()
            if self.progress is not None:
                self.progress("update", index + 1, len(microbatches))
        if first_update:
            self._check_on_policy(microbatches[-1])
        # No decision may count at all: then every microbatch has share 0, and their statistics weigh alike.
        weights = shares if any(shares) else [1.0] * len(shares)
        combined = combine_microbatches(statistics, weights, maxima=self.objective.maxima)
        return loss, {f"{self.prefix}objective/{name}": value for name, value in combined.items()}

    def minibatch(self, rows: Int[Tensor, " picked"]) -> Minibatch:
        """Return what the objective sees of the given rows."""
        return Minibatch(
            advantages=self.advantages[rows],
            sampled=self.rollout.sampled.select(rows),
            mask=self.rollout.mask[rows],
            reference=None if self.reference is None else self.reference.select(rows),
        )

    def _shares(self, rows: Tensor, microbatches: tuple[Tensor, ...]) -> list[float]:
        """Return each microbatch's share in the loss, a mean over the minibatches of all ranks."""
        weights = self.objective.row_weights(self.rollout.mask).cpu()
        mean = float(gather_first_axis(weights[rows].sum()[None].to(self.rollout.mask.device)).mean())
        mean = max(mean, torch.finfo(weights.dtype).tiny)  # no decision may count at all
        return [float(weights[part].sum()) / mean for part in microbatches]

    def _check_on_policy(self, rows: Tensor) -> None:
        """Compare the deviation of all ranks with the tolerance; ``rows`` are some rows to diagnose it with."""
        self.deviation = max_over_ranks(self.deviation)
        if float(self.deviation) <= self.tolerance:
            return
        # Decided by all ranks together: a rank that left here while others score again would leave them waiting.
        changed = any_rank(not torch.equal(self._fingerprint, weight_fingerprint(self.policy)), self.policy.device)
        cause = off_policy_cause(self.policy, self.rollout, rows, weights_changed=changed)
        raise OnPolicyError(
            f"before the first update of an iteration the ratio must be 1, but |ln ratio| reaches {self.deviation:.3g} "
            f"(on_policy_tolerance={self.tolerance:.3g}). Likely cause: {cause}"
        )


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


def nonzero_advantage_rows(rows: Int[Tensor, " picked"], advantages: Float[Tensor, " rows"]) -> Int[Tensor, " kept"]:
    """Return the rows whose advantage is not zero; the others add exactly zero to a gradient without a KL term.

    Args:
        rows: Rows of a minibatch.
        advantages: [B] one advantage per row of the rollout.

    Returns:
        The kept rows in the same order. If none would be left, the first row: its gradient is zero, and the update
        (momentum, weight decay) happens as it would with all rows.

    Example:
        >>> nonzero_advantage_rows(torch.tensor([2, 0, 1]), torch.tensor([0.0, 1.0, -1.0]))
        tensor([2, 1])
    """
    kept = rows[(advantages[rows] != 0).to(rows.device)]
    return kept if len(kept) else rows[:1]


def weight_fingerprint(policy: Policy) -> Float[Tensor, " weights"]:
    """Return the norm of each weight (of this rank's shard): equal before and after if nothing wrote to the weights."""
    reshard(policy)  # gathered copies would hide the shards
    weights = [local_part(p.detach()) for p in policy.parameters() if p.is_floating_point()]
    return torch.stack([norm.double().cpu() for norm in torch._foreach_norm(weights)])


@torch.no_grad()
def reference_score(policy: Policy, objective: Objective, rollout: Rollout, microbatch_size: int) -> PolicyScore | None:
    """Return the reference's score of all rows, or ``None`` if the objective does not need it."""
    if not objective.needs_reference:
        return None
    rows = torch.arange(len(rollout.mask)).split(microbatch_size)
    with policy.reference():
        return PolicyScore.concatenate([policy.score(rollout, part) for part in rows])
