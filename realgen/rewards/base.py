"""The contract of a reward: a rollout in, one number per sample out, higher is better."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.functional.images import check_images
from realgen.types import RewardOutput, Rollout


class Reward(ABC):
    """Judges the samples of a rollout. A plain class: frozen networks inside it stay out of state dicts and shards."""

    @abstractmethod
    def score(self, rollout: Rollout) -> Float[Tensor, " rows"]:
        """One number per row [B], higher is better; NaN for a row that could not be judged."""

    def to(self, device: torch.device | str) -> Reward:
        """Move what computes to a device; returns self."""
        return self

    @property
    def name(self) -> str:
        """Name of the only part when the reward stands alone."""
        return type(self).__name__.lower()

    def __call__(self, rollout: Rollout) -> RewardOutput:
        """Judge a rollout.

        Raises:
            ValueError: If the images have another shape, type or range, or ``score`` returns another number of rows
                than the rollout has.
        """
        check_images(rollout.images, may_lack_pixels=True)  # a reward of texts needs none
        total = per_prompt(self.score(rollout), rollout, self.name)
        return RewardOutput(total=total, parts={self.name: total}, weights={self.name: 1.0})


def per_prompt(scores: Float[Tensor, " rows"], rollout: Rollout, name: str) -> Float[Tensor, "prompts group"]:
    """Fold row scores [B] into [P, G], float32; infinities become NaN, so one mark means 'not judged'."""
    rows = len(rollout.prompts) * rollout.group_size
    if scores.shape != (rows,):
        raise ValueError(f"reward {name!r} must return one score per row, shape ({rows},), got {tuple(scores.shape)}.")
    scores = scores.float()
    return torch.where(scores.isfinite(), scores, torch.nan).view(len(rollout.prompts), rollout.group_size)
