"""A weighted sum of named rewards."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import nearest
from realgen.detectors.base import FrozenNetwork
from realgen.functional.network_input import check_images
from realgen.rewards.base import Reward
from realgen.types import RewardOutput, Samples


class WeightedSum(Reward):
    """total = sum_m w_m R_m; every component is kept under its name, unweighted.

    A sample that a component of positive weight cannot score (NaN) is NaN in the total, so it changes no policy. An
    error in a component stops the run. ValueError if no reward has a positive weight, a weight is negative or not
    finite, or has no reward.

    Args:
        rewards: Rewards by name; ``null`` drops one, so that a second config can.
        weights: Weight of each in the total, finite and >= 0; 1 where not given. A reward of weight 0 is computed and
            logged, and changes no policy.
    """

    def __init__(self, rewards: dict[str, Reward | None], weights: dict[str, float] | None = None) -> None:
        weights = weights or {}
        for name, weight in weights.items():
            if name not in rewards:
                raise ValueError(f"weights: {name!r} is not among the rewards. {nearest(name, rewards)}".rstrip())
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weights[{name!r}] must be finite and >= 0, got {weight}.")
        self.rewards = {name: reward for name, reward in rewards.items() if reward is not None}
        self.weights = {name: float(weights.get(name, 1.0)) for name in self.rewards}
        if not any(self.weights.values()):
            raise ValueError(f"rewards must hold at least one with a positive weight, got {self.weights}.")

    def __call__(self, samples: Samples) -> RewardOutput:
        """Score samples by every component; raise ValueError as ``Reward`` does."""
        check_images(samples.images, may_lack_pixels=True)  # a reward of texts needs none
        components = {name: samples.per_prompt(reward.score(samples), name) for name, reward in self.rewards.items()}
        # 0 times NaN is NaN, so a component without weight is left out of the sum.
        total = torch.stack([weight * components[name] for name, weight in self.weights.items() if weight]).sum(0)
        return RewardOutput(total=total, components=components, weights=dict(self.weights))

    @property
    def networks(self) -> list[FrozenNetwork]:
        """Those of every component."""
        return [network for reward in self.rewards.values() for network in reward.networks]

    def overlaps(self, device: torch.device) -> bool:
        """Return whether one component gains by another thread, which then scores them all."""
        return any(reward.overlaps(device) for reward in self.rewards.values())

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return the total per row [P * G]."""
        return self(samples).total.flatten()

    def to(self, device: torch.device | str) -> WeightedSum:
        """Move every component; return self."""
        for reward in self.rewards.values():
            reward.to(device)
        return self
