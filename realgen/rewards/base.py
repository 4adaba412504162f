"""The contract of a reward: samples in, one number per sample out, higher is better."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.detectors.base import FrozenNetwork
from realgen.functional.network_input import check_images
from realgen.types import RewardOutput, Samples


class Reward(ABC):
    """Scores samples. A plain class: frozen networks inside it stay out of state dicts and shards."""

    fails_by_sample: bool = True
    """Whether an error of ``score`` may come from one sample, which is then looked for by scoring them one by one."""

    @abstractmethod
    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return one number per row [P * G], higher is better; NaN for a row that could not be scored."""

    @property
    def networks(self) -> list[FrozenNetwork]:
        """The frozen networks that it computes with on this machine."""
        return [self] if isinstance(self, FrozenNetwork) else []

    def to(self, device: torch.device | str) -> Reward:
        """Let what computes compute on a device; return self."""
        for network in self.networks:
            network.to(device)
        return self

    def overlaps(self, device: torch.device) -> bool:
        """Return whether another thread gains time while ``device`` samples: one that waits, or computes elsewhere."""
        return any(network.device != device for network in self.networks)

    @property
    def name(self) -> str:
        """Name of the only component when the reward stands alone."""
        return type(self).__name__.lower()

    def __call__(self, samples: Samples) -> RewardOutput:
        """Score samples.

        ValueError if the images have another shape, type or range, or ``score`` returns another number of rows than
        there are samples.
        """
        check_images(samples.images, may_lack_pixels=True)  # a reward of texts needs none
        total = samples.per_prompt(self.score(samples), self.name)
        return RewardOutput(total=total, components={self.name: total}, weights={self.name: 1.0})


class FrozenReward(FrozenNetwork, Reward):
    """A reward by one frozen network, which is read at the first use and called with ``in_chunks``."""
