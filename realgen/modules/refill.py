"""Dynamic sampling: groups that nothing can be learned from are replaced before the update."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from realgen.checks import check_at_least, check_choice
from realgen.data.prompt_shards import PromptShards
from realgen.parallel import gather_first_axis, max_over_ranks, world_size
from realgen.policies.base import Policy
from realgen.policies.joint_policy import select_prompts
from realgen.rewards.base import Reward
from realgen.rewards.weighted_sum import WeightedSum
from realgen.types import PolicyScore, PromptBatch, RewardOutput, Rollout, lengthen

_LEAST_WEIGHT = 0.05


class Groups(NamedTuple):
    """P prompts with their samples, rewards, and the reference's score where there is one."""

    batch: PromptBatch
    rollout: Rollout
    rewards: RewardOutput
    reference: PolicyScore | None

    def exchange(self, places: list[int], other: Groups, chosen: list[int], policy: Policy) -> Groups:
        """Return these groups with those at ``places`` replaced by the ``chosen`` ones of another sampling."""
        order = torch.arange(len(self.batch.prompts))
        order[places] = len(order) + torch.tensor(chosen, dtype=torch.long)
        both = (self, other)
        size = max(groups.rollout.mask.shape[1] for groups in both)  # completions are as long as their longest
        rollouts = [
            replace(
                rollout,
                mask=lengthen(rollout.mask, size),
                sampled=rollout.sampled and rollout.sampled.lengthen(size),
                policy_state={},
            )
            for rollout in (self.rollout, other.rollout)
        ]
        state = policy.join_states([groups.rollout.policy_state for groups in both])
        rollout = select_prompts(replace(Rollout.concatenate(rollouts), policy_state=state), order)
        rewards = RewardOutput.concatenate([self.rewards, other.rewards])
        components = {name: values[order] for name, values in rewards.components.items()}
        references = [groups.reference.lengthen(size) for groups in both if groups.reference is not None]
        rows = (order[:, None] * rollout.group_size + torch.arange(rollout.group_size)).flatten()
        reference = PolicyScore.concatenate(references).select(rows) if references else None
        fields = zip(self.batch, other.batch, strict=True)
        batch = PromptBatch(*(_join(mine, theirs, order.tolist()) for mine, theirs in fields))
        return Groups(batch, rollout, RewardOutput(rewards.total[order], components, rewards.weights), reference)


@dataclass(eq=False)
class Refill:
    """Replaces groups without spread by those of other prompts (dynamic sampling; DAPO, arXiv:2503.14476, section 3.2).

    A group whose rewards are all alike has no advantages. Whole groups are exchanged, never samples, so that each keeps
    its own mean. An iteration then costs up to ``rounds`` samplings of as many prompts as are short on the rank that
    lacks most. What stays without spread after them is used as it is. ``reward`` and all other statistics of rewards
    are of the prompts that were dealt out, before the exchange; ``refill/drawn`` and ``refill/replaced`` count groups,
    as means over the ranks.

    Other prompts are drawn from the training shards without repetition, by weights that begin at 1 and go towards 0.05
    with each group of a prompt without spread, and back with each that has some. Random numbers come from (seed,
    iteration, round) and the weights are in the checkpoint, so that a resumed run draws the same prompts. ValueError if
    a number is out of its range.

    Args:
        rounds: Samplings of other prompts in one iteration at most, >= 1.
        component: Reward whose spread counts; ``null``: the weighted sum. With a sum a group in which all fail at the
            task may still have some, of its other parts.
        min_spread: Largest minus smallest reward of a group must be above it, >= 0.
        rate: Of a prompt's weight, above 0 to 1: share of the newest group.
    """

    rounds: int = 2
    component: str | None = None
    min_spread: float = 0.0
    rate: float = 0.5
    weights: Tensor | None = field(default=None, init=False)
    """[prompts] of the training shards, 0.05 to 1; ``None`` before the first iteration."""

    def __post_init__(self) -> None:
        check_at_least(1, rounds=self.rounds)
        check_at_least(0, min_spread=self.min_spread)
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be above 0 and at most 1, got {self.rate}.")

    def check(self, reward: Reward, datamodule: Any) -> None:
        """Raise ValueError if the reward has no such component, or the prompts cannot be drawn by number."""
        if self.component is not None:
            names = tuple(reward.rewards) if isinstance(reward, WeightedSum) else (reward.name,)
            check_choice("model.refill.component", self.component, names)
        if not isinstance(datamodule, PromptShards):
            raise ValueError(f"model.refill needs realgen.data.PromptShards as data, got {type(datamodule).__name__}.")

    def has_spread(self, rewards: RewardOutput) -> Bool[Tensor, " prompts"]:
        """Return which groups have some spread among the samples that could be scored."""
        values = rewards.total if self.component is None else rewards.components[self.component]
        values = values.masked_fill(~rewards.valid, math.nan)
        most, least = values.nan_to_num(-math.inf).amax(1), values.nan_to_num(math.inf).amin(1)
        return most - least > self.min_spread

    def fill(
        self,
        groups: Groups,
        draw: Callable[[PromptBatch], Groups],
        data: Any,
        policy: Policy,
        *,
        iteration: int,
        seed: int,
    ) -> tuple[Groups, dict[str, Tensor]]:
        """Exchange this rank's groups without spread for those that ``draw`` samples; all ranks must come here.

        Other prompts come from ``data``, the ``PromptShards`` that ``check`` has seen.

        Returns:
            As many groups as before, and what is to be logged.

        Raises:
            ValueError: If the checkpoint's weights are of other shards.
        """
        if self.weights is None:
            self.weights = torch.ones(len(data.train_table))
        if len(self.weights) != len(data.train_table):
            raise ValueError(
                f"model.refill: the checkpoint has weights of {len(self.weights)} prompts, the training shards hold "
                f"{len(data.train_table)}; go on with the shards of the run."
            )
        device = groups.rewards.total.device
        spread, drawn, replaced = self.has_spread(groups.rewards), 0, 0
        seen = self._learn(torch.tensor(data.train_rows(iteration)), spread)
        for turn in range(self.rounds):
            short = int(max_over_ranks((~spread).sum()))
            rows = self._choose(short, seen, f"{seed}/{iteration}/{turn}").chunk(world_size())[data.rank]
            if not len(rows):
                break
            other = draw(data.train_table.batch(rows.tolist()))
            theirs = self.has_spread(other.rewards)
            seen = torch.cat([seen, self._learn(rows, theirs)])
            places, chosen = (~spread).nonzero().flatten().tolist(), theirs.nonzero().flatten().tolist()
            number = min(len(places), len(chosen))
            if number:
                groups = groups.exchange(places[:number], other, chosen[:number], policy)
            spread = self.has_spread(groups.rewards)
            drawn, replaced = drawn + len(rows), replaced + number
        counts = torch.tensor([[drawn, replaced]], dtype=torch.float32, device=device)
        return groups, dict(zip(("refill/drawn", "refill/replaced"), gather_first_axis(counts).mean(0), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the prompts' weights."""
        return {"weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the prompts' weights."""
        self.weights = state_dict["weights"]

    def _learn(self, rows: Int[Tensor, " prompts"], spread: Bool[Tensor, " prompts"]) -> Int[Tensor, " all"]:
        """Move the weights of all ranks' prompts; return their numbers."""
        assert self.weights is not None
        pairs = gather_first_axis(torch.stack([rows.to(spread.device), spread.long()], dim=1)).cpu()
        for row, has in pairs.tolist():  # one by one: where two epochs meet, a prompt may stand in an iteration twice
            self.weights[row] = max(_LEAST_WEIGHT, (1 - self.rate) * float(self.weights[row]) + self.rate * has)
        return pairs[:, 0]

    def _choose(self, per_rank: int, seen: Int[Tensor, " used"], source: str) -> Int[Tensor, " rows"]:
        """Draw prompts of all ranks that this iteration has not seen, by weight, as many for each rank."""
        assert self.weights is not None
        digest = hashlib.sha256(f"refill/{source}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        keys = self.weights.log() - torch.empty(len(self.weights)).exponential_(generator=generator).log()  # + Gumbel
        keys[seen] = -math.inf
        ranks = world_size()
        left = len(keys) - len(seen.unique())
        return keys.topk(min(per_rank, left // ranks) * ranks).indices


def _join(mine: Any, theirs: Any, order: list[int]) -> Any:
    if mine is None or theirs is None:
        return None
    if isinstance(mine, Tensor):
        return torch.cat([mine, theirs.to(mine.device)])[order]
    return tuple((*mine, *theirs)[place] for place in order)
