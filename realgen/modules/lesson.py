"""What one policy learns from one iteration, microbatch by microbatch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from realgen.modules.minibatches import make_minibatch, rows_that_teach
from realgen.modules.on_policy import OnPolicyGuard
from realgen.modules.statistics import combine_microbatches
from realgen.objectives.base import Objective
from realgen.parallel import gather_first_axis, gradient_sync, is_sharded, world_size
from realgen.policies.base import Policy
from realgen.policies.joined import concatenate_scores
from realgen.types import PolicyScore, Rollout


class Lesson:
    """A rollout with its advantages, and the objective that makes a loss of them.

    Make it right after the rollout: its guard remembers the weights that sampled.

    Args:
        policy: What learns.
        objective: Makes the loss.
        rollout: What the policy has just sampled.
        advantages: One per row.
        reference: The reference's score of all rows, where the objective reads it.
        microbatch_size: Rows per forward and backward pass.
        tolerance: Of the on-policy guard.
        skip_zero_advantages: Spare rows that add nothing, where that is exact.
        prefix: Of the names of its statistics.
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
    ) -> None:
        self.policy = policy
        self.objective = objective
        self.rollout = rollout
        self.advantages = advantages
        self.reference = reference
        self.microbatch_size = microbatch_size
        sharded = world_size() > 1 and is_sharded(policy)
        self.may_skip = skip_zero_advantages and not objective.needs_reference and not sharded
        self.prefix = prefix
        self.guard = OnPolicyGuard(policy, rollout, tolerance=tolerance)

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.rollout.mask)

    def study(
        self, rows: Int[Tensor, " picked"], model: nn.Module, backward: Callable[[Tensor], None], *, watch: bool
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Gradients of the loss over a minibatch, but for those of its last microbatch.

        The loss is a mean over the decisions of all ranks, and gradients are averaged over the ranks: each microbatch
        counts with its share of what a rank's minibatch holds on average. Every rank must call it.

        Args:
            rows: The minibatch.
            model: As the strategy wrapped it; gradients are only accumulated, not yet averaged over the ranks.
            backward: The module's backward pass.
            watch: Whether the on-policy guard looks at the scores.

        Returns:
            The last microbatch's share of the loss, for the backward pass that averages gradients over the ranks, and
            statistics of the minibatch.
        """
        kept = rows_that_teach(rows, self.advantages) if self.may_skip else rows
        microbatches = kept.split(self.microbatch_size)
        weights = self.objective.row_weights(self.rollout.mask).cpu()
        whole = float(gather_first_axis(weights[rows].sum()[None].to(self.rollout.mask.device)).mean())
        whole = max(whole, torch.finfo(weights.dtype).tiny)  # no decision may count at all
        shares = [float(weights[part].sum()) / whole for part in microbatches]
        statistics = []
        loss = torch.zeros(())
        for index, (part, share) in enumerate(zip(microbatches, shares, strict=True)):
            batch = make_minibatch(self.rollout, self.advantages, self.reference, part)
            with gradient_sync(model, enabled=False):
                score = self.policy.score(self.rollout, part)
                loss, values = self.objective.loss(score, batch)
                loss = loss * share
                if index + 1 < len(microbatches):
                    backward(loss)
            statistics.append(values)
            if watch:
                self.guard.watch(score, batch, part)
            if self.policy.progress is not None:
                self.policy.progress("update", index + 1, len(microbatches))
        combined = combine_microbatches(statistics, shares if any(shares) else [1.0] * len(shares))
        return loss, {f"{self.prefix}objective/{name}": value for name, value in combined.items()}


@torch.no_grad()
def reference_score(policy: Policy, objective: Objective, rollout: Rollout, microbatch_size: int) -> PolicyScore | None:
    """The reference's score of all rows, if the objective reads it."""
    if not objective.needs_reference:
        return None
    rows = torch.arange(len(rollout.mask)).split(microbatch_size)
    with policy.reference():
        return concatenate_scores([policy.score(rollout, part) for part in rows])


def check_pair(policy: Policy, objective: Objective) -> None:
    """Refuse an objective that reads what the policy does not have, before anything is loaded."""
    policy.check_objective(type(objective).__name__, objective.requires, reference=objective.needs_reference)
