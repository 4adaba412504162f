"""A weighted sum of named rewards."""

from __future__ import annotations

import difflib
import math

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.functional.images import check_images
from realgen.rewards.base import Reward, per_prompt
from realgen.types import RewardOutput, Rollout


class WeightedSum(Reward):
    """total = sum_m w_m R_m; every part is kept under its name, unweighted.

    A sample that a part of positive weight cannot judge (NaN) is NaN in the total, so no objective learns from it. An
    error in a part stops the run.

    Args:
        rewards: Rewards by name; ``null`` drops one, so that a second config can.
        weights: Weight of each in the total, finite and >= 0; 1 where not given. A reward of weight 0 is judged and
            logged, and moves nothing.

    Raises:
        ValueError: If no reward has a positive weight, a weight is negative or not finite, or has no reward.
    """

    def __init__(self, rewards: dict[str, Reward | None], weights: dict[str, float] | None = None) -> None:
        weights = weights or {}
        for name, weight in weights.items():
            if name not in rewards:
                near = difflib.get_close_matches(name, rewards, n=1) or [", ".join(rewards) or "none"]
                raise ValueError(f"weights names {name!r}, which is not among the rewards; nearest: {near[0]}.")
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weights[{name!r}] must be finite and >= 0, got {weight}.")
        self.rewards = {name: reward for name, reward in rewards.items() if reward is not None}
        self.weights = {name: float(weights.get(name, 1.0)) for name in self.rewards}
        if not any(self.weights.values()):
            raise ValueError(f"rewards must hold at least one with a positive weight, got {self.weights}.")

    def __call__(self, rollout: Rollout) -> RewardOutput:
        """Judge a rollout by every part.

        Raises:
            ValueError: If the images have another shape, type or range, or a part returns another number of rows than
                the rollout has.
        """
        check_images(rollout.images, may_lack_pixels=True)  # a reward of texts needs none
        parts = {name: per_prompt(reward.score(rollout), rollout, name) for name, reward in self.rewards.items()}
        # 0 times NaN is NaN, so a part without weight stays out altogether.
        total = torch.stack([self.weights[name] * part for name, part in parts.items() if self.weights[name]]).sum(0)
        return RewardOutput(total=total, parts=parts, weights=dict(self.weights))

    def score(self, rollout: Rollout) -> Float[Tensor, " rows"]:
        """The total per row [B]."""
        return self(rollout).total.flatten()

    def to(self, device: torch.device | str) -> WeightedSum:
        """Move every part; returns self."""
        for reward in self.rewards.values():
            reward.to(device)
        return self
