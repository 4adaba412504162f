"""The shared part of the rewards that a frozen network computes."""

from __future__ import annotations

import torch

from realgen.detectors.base import FrozenNetwork
from realgen.rewards.base import Reward


class FrozenReward(FrozenNetwork, Reward):
    """A reward by one frozen network, which is read at the first use and called with ``in_chunks``.

    Args:
        batch_size: Images per forward pass.
    """

    def to(self, device: torch.device | str) -> FrozenReward:
        """Move the network; return self."""
        super().to(device)
        return self
