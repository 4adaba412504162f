"""The contract of a reward: samples in, one number per sample out, higher is better."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.functional.network_input import check_images
from realgen.types import RewardOutput, Samples


class Reward(ABC):
    """Scores samples. A plain class: frozen networks inside it stay out of state dicts and shards."""

    @abstractmethod
    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return one number per row [P * G], higher is better; NaN for a row that could not be scored."""

    def to(self, device: torch.device | str) -> Reward:
        """Move what computes to a device; return self."""
        return self

    @property
    def name(self) -> str:
        """Name of the only component when the reward stands alone."""
        return type(self).__name__.lower()

    def __call__(self, samples: Samples) -> RewardOutput:
        """Score samples.

        Raises:
            ValueError: If the images have another shape, type or range, or ``score`` returns another number of rows
                than there are samples.
        """
        check_images(samples.images, may_lack_pixels=True)  # a reward of texts needs none
        total = samples.per_prompt(self.score(samples), self.name)
        return RewardOutput(total=total, components={self.name: total}, weights={self.name: 1.0})
