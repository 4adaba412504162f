"""Rewards: a rollout in, one number per sample out, higher is better."""

from realgen.rewards.alignment import Alignment
from realgen.rewards.base import Reward, per_prompt
from realgen.rewards.realism import Realism
from realgen.rewards.weighted_sum import WeightedSum, num_failed

__all__ = ["Alignment", "Realism", "Reward", "WeightedSum", "num_failed", "per_prompt"]
