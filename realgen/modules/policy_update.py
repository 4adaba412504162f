"""The update of one policy from one rollout: minibatches, microbatches, their gradients, and the on-policy check."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from realgen.functional.policy_loss import relative_difference
from realgen.modules.on_policy import LOW_PRECISION, MOST_ROUNDING, off_policy_error, warn_of_rounding
from realgen.modules.statistics import combine_microbatches
from realgen.objectives.base import Objective
from realgen.parallel import (
    any_rank,
    gather_first_axis,
    gradient_sync,
    is_sharded,
    local_part,
    reshard,
    world_size,
)
from realgen.policies.base import Policy, Progress
from realgen.types import Minibatch, PolicyScore, Rollout

OldLogProbs = Literal["rollout", "rescored", "update"]


class PolicyUpdate:
    """Gradients of an objective's loss over minibatches of a rollout.

    Construct it right after the rollout: it remembers the weights that sampled, and scores under frozen weights what
    the objective needs. GRPO assumes that the first update is on-policy, that is, that scoring the rollout again gives
    the same log-probabilities; ``gradients`` checks it. A rollout of draws has no score to check. Where each row is
    trained once, by the weights that sampled it, its own score in the update serves as the old one, for free.

    Advantages are one per row, and ``reference`` is that policy's score of all rows, where the objective needs it.
    ``tolerance`` passes before the first update: the largest relative difference of a decision's velocity, or where
    there are none (tokens) the largest |ln ratio|; ``None``: see ``default_tolerance``. ``skip_zero_advantages`` skips
    rows that add nothing, where that is exact. ``old`` is ``old_log_probs`` of ``GRPOModule``. After the first of
    ``several_updates`` they are off-policy. ``prefix`` begins the names of its statistics.
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
        tolerance: float | None,
        skip_zero_advantages: bool,
        old: OldLogProbs = "rollout",
        several_updates: bool = True,
        prefix: str = "",
        progress: Progress | None = None,
    ) -> None:
        self.policy = policy
        self.objective = objective
        self.rollout = rollout
        self.advantages = advantages
        self.reference = reference
        self.microbatch_size = microbatch_size
        self.old = rollout.sampled if old == "rollout" else None
        decider = policy.decider
        moved = several_updates or objective.uses_groups
        moved = moved or (decider.sampler is not None and decider.lagged[decider.sampler].lags)
        if old == "rescored" or (rollout.sampled is None and moved):
            self.old = score_again(policy, rollout, microbatch_size, decider.with_lagged(decider.sampler))
        self.lagged = {
            name: score_again(policy, rollout, microbatch_size, decider.with_lagged(name))
            for name in sorted(objective.lagged)
        }
        self.tolerance = default_tolerance(policy, rollout) if tolerance is None else tolerance
        self.prefix = prefix
        self.progress = progress
        # Shards are gathered in every forward pass, so no rank may leave out rows on its own.
        sharded = world_size() > 1 and is_sharded(policy)
        pulled = objective.needs_reference or objective.pulls_back
        self.may_skip = skip_zero_advantages and not pulled and not sharded
        self.deviations = torch.zeros(3, device=rollout.mask.device)
        """Before the first update the largest |ln ratio|, relative difference of velocities and |ratio - 1| of the
        objective; of all ranks after the check."""
        self._fingerprint = weight_fingerprint(policy)
        self.group_terms: Tensor | None = None
        if objective.uses_groups and self.old is not None:
            batch = self.minibatch(torch.arange(self.num_rows), self.old)
            self.group_terms = objective.group_terms(batch, rollout.group_size)

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.rollout.mask)

    @property
    def has_velocity(self) -> bool:
        """Whether the policy's decisions have velocities, by which the check then judges."""
        return self.rollout.sampled is not None and self.rollout.sampled.velocity is not None

    @property
    def deviation(self) -> Float[Tensor, ""]:
        """The largest deviation of the kind that the check judges by."""
        return self.deviations[int(self.has_velocity)]

    @property
    def statistics(self) -> dict[str, Float[Tensor, ""]]:
        """What the check has measured, to be logged."""
        if self.rollout.sampled is None:
            return {}
        names = ("on_policy_deviation", "on_policy_velocity")[: 1 + self.has_velocity]
        return {f"{self.prefix}ratio/{name}": self.deviations[index] for index, name in enumerate(names)}

    @property
    def maxima(self) -> frozenset[str]:
        """Names of the statistics that are joined by their maximum; see ``Objective.maxima``."""
        return frozenset(f"{self.prefix}objective/{name}" for name in self.objective.maxima)

    def gradients(
        self, rows: Int[Tensor, " picked"], model: nn.Module, backward: Callable[[Tensor], None], *, first_update: bool
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Accumulate the gradients of the loss over a minibatch, but for those of its last microbatch.

        The loss is a mean over the decisions of all ranks, and gradients are averaged over the ranks: each microbatch
        counts with its share of what a rank's minibatch holds on average. Every rank must call it. OnPolicyError if
        ``first_update`` and a ratio is not 1; the message names the likely cause.

        Args:
            rows: The minibatch.
            model: As the strategy wrapped it; gradients are only accumulated, not yet averaged over the ranks.
            backward: The module's backward pass.
            first_update: Whether the weights are still those that sampled, so that the ratio must be 1.

        Returns:
            The last microbatch's share of the loss, and statistics of the minibatch. That loss is left to the caller
            because DDP averages over the ranks in one backward pass, which must reach the weights of all policies.
        """
        checks = first_update and self.rollout.sampled is not None
        kept = nonzero_advantage_rows(rows, self.advantages) if self.may_skip else rows
        microbatches = kept.split(self.microbatch_size)
        shares = self._shares(rows, microbatches)
        statistics = []
        loss = torch.zeros(())
        for index, (part, share) in enumerate(zip(microbatches, shares, strict=True)):
            with gradient_sync(model, enabled=False):
                score = self.policy.score(self.rollout, part)
                loss, values = self.objective.loss(score, self.minibatch(part, score))
                loss = loss * share
                if index + 1 < len(microbatches):
                    backward(loss)
            statistics.append(values)
            if checks:
                largest = torch.stack([self.deviations, self._deviations(part, score, values)])
                self.deviations = largest.amax(0)  # propagates NaN, so a policy that scores NaN does not pass
            if self.progress is not None:
                self.progress("update", index + 1, len(microbatches))
        if checks:
            self._check_on_policy(microbatches[-1])
        # No decision may count at all: then every microbatch has share 0, and their statistics weigh alike.
        weights = shares if any(shares) else [1.0] * len(shares)
        combined = combine_microbatches(statistics, weights, maxima=self.objective.maxima)
        return loss, {f"{self.prefix}objective/{name}": value for name, value in combined.items()}

    @torch.no_grad()
    def minibatch(self, rows: Int[Tensor, " picked"], score: PolicyScore) -> Minibatch:
        """Return what the objective sees of the given rows, which have this score."""
        return Minibatch(
            advantages=self.advantages[rows],
            sampled=score.select(torch.arange(len(rows))) if self.old is None else self.old.select(rows),
            mask=self.rollout.mask[rows],
            reference=self.reference and self.reference.select(rows),
            lagged={name: lagged.select(rows) for name, lagged in self.lagged.items()},
            group_terms=None if self.group_terms is None else self.group_terms[rows],
        )

    def _shares(self, rows: Tensor, microbatches: tuple[Tensor, ...]) -> list[float]:
        """Return each microbatch's share in the loss, a mean over the minibatches of all ranks."""
        weights = self.objective.row_weights(self.rollout.mask).cpu()
        mean = float(gather_first_axis(weights[rows].sum()[None].to(self.rollout.mask.device)).mean())
        mean = max(mean, torch.finfo(weights.dtype).tiny)  # no decision may count at all
        return [float(weights[part].sum()) / mean for part in microbatches]

    @torch.no_grad()
    def _deviations(self, rows: Tensor, score: PolicyScore, values: Mapping[str, Tensor]) -> Float[Tensor, "3"]:
        """Return how far a score is from the rollout's own; see ``deviations``."""
        assert self.rollout.sampled is not None
        sampled, mask = self.rollout.sampled.select(rows), self.rollout.mask[rows]
        found = [(score.log_probs - sampled.log_probs).abs(), torch.zeros_like(score.log_probs)]
        if score.velocity is not None and sampled.velocity is not None:
            found[1] = relative_difference(score.velocity, sampled.velocity).to(found[0])
        largest = [torch.where(mask, each, 0.0).amax() for each in found]
        return torch.stack([*largest, values.get("ratio_max_deviation", torch.zeros_like(largest[0]))])

    def _check_on_policy(self, rows: Tensor) -> None:
        """Compare the deviations of all ranks with the tolerance; ``rows`` are some rows to diagnose them with."""
        self.deviations = gather_first_axis(self.deviations[None]).amax(0)
        if float(self.deviation) <= self.tolerance:
            if (rounding := float(self.deviations[2])) > self.objective.clip_range / 2:
                warn_of_rounding(rounding, self.objective.clip_range)
            return
        # Decided by all ranks together: a rank that left here while others score again would leave them waiting.
        changed = any_rank(not torch.equal(self._fingerprint, weight_fingerprint(self.policy)), self.policy.device)
        raise off_policy_error(self.policy, self.rollout, rows, float(self.deviation), self.tolerance, changed)


def default_tolerance(policy: Policy, rollout: Rollout) -> float:
    """Return the tolerance that goes with the arithmetic.

    Velocities differ by rounding alone by less than 1e-4 in float32, and by up to 4.5 % in bfloat16 with guidance; a
    wrong prompt, step or guidance shows from 6 % on. Of tokens it is |ln ratio|, 1e-5; to what the sampler's cached
    passes said, whose rounding is another, 1e-3 in float32, and without limit in low precision.
    """
    tokens = rollout.sampled is None or rollout.sampled.velocity is None
    if tokens and policy.scores_rollouts:
        return 1e-5
    low = torch.is_autocast_enabled(policy.device.type) or torch.get_float32_matmul_precision() != "highest"
    low = low or any(p.dtype in LOW_PRECISION for p in policy.parameters())
    return (torch.inf if low else 1e-3) if tokens else MOST_ROUNDING if low else 1e-4


def shuffled_minibatches(num_rows: int, updates: int, generator: torch.Generator) -> tuple[Int[Tensor, " picked"], ...]:
    """Permute rows and deal them out to ``updates``, a divisor of their number; one index tensor each, on the CPU."""
    return torch.randperm(num_rows, generator=generator).split(num_rows // updates)


def nonzero_advantage_rows(rows: Int[Tensor, " picked"], advantages: Float[Tensor, " rows"]) -> Int[Tensor, " kept"]:
    """Return the rows whose advantage is not zero; the others add exactly zero to a gradient without a KL term.

    They stay in order. If none would be left, the first row does: its gradient is zero, and the update (momentum,
    weight decay) happens as it would with all rows.
    """
    kept = rows[(advantages[rows] != 0).to(rows.device)]
    return kept if len(kept) else rows[:1]


def weight_fingerprint(policy: Policy) -> Float[Tensor, " weights"]:
    """Return the norm of each weight (of this rank's shard): equal before and after if nothing wrote to the weights."""
    reshard(policy)  # gathered copies would hide the shards
    weights = [local_part(p.detach()) for p in policy.parameters() if p.is_floating_point()]
    return torch.stack([norm.double() for norm in torch._foreach_norm(weights)]).cpu()


@torch.no_grad()
def score_again(
    policy: Policy, rollout: Rollout, microbatch_size: int, weights: AbstractContextManager[None]
) -> PolicyScore:
    """Return the policy's score of all rows under some weights, in calls of as many rows as those of an update."""
    with weights:
        return PolicyScore.concatenate(
            [policy.score(rollout, part) for part in torch.arange(len(rollout.mask)).split(microbatch_size)]
        )


def reference_score(policy: Policy, objective: Objective, rollout: Rollout, microbatch_size: int) -> PolicyScore | None:
    """Return the reference's score of all rows, or ``None`` if the objective does not need it."""
    if not objective.needs_reference:
        return None
    return score_again(policy, rollout, microbatch_size, policy.reference())
