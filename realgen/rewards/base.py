"""The contract of a reward: samples in, one number per sample out, higher is better; and how rewards are regrouped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

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
        total = per_prompt(self.score(samples), samples, self.name)
        return RewardOutput(total=total, components={self.name: total}, weights={self.name: 1.0})


def per_prompt(scores: Float[Tensor, " rows"], samples: Samples, name: str) -> Float[Tensor, "prompts group"]:
    """Reshape row scores [P * G] to float32 [P, G]; infinities become NaN, so that one mark means 'not scored'."""
    rows = len(samples.prompts) * samples.group_size
    if scores.shape != (rows,):
        raise ValueError(f"reward {name!r} must return one score per row, shape ({rows},), got {tuple(scores.shape)}.")
    scores = scores.float()
    return torch.where(scores.isfinite(), scores, torch.nan).view(len(samples.prompts), samples.group_size)  # [P, G]


def concatenate_rewards(outputs: Sequence[RewardOutput]) -> RewardOutput:
    """Join the rewards of consecutive prompts, scored by one reward."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    components = {name: torch.cat([output.components[name] for output in outputs]) for name in first.components}
    return RewardOutput(torch.cat([output.total for output in outputs]), components, first.weights)


def mean_over_images(rewards: RewardOutput, images_per_row: int) -> RewardOutput:
    """Average the rewards of each row's images, over the images that could be scored.

    Args:
        rewards: [P, G * N], the N images of a row together.
        images_per_row: N.

    Returns:
        [P, G]; NaN where none of a row's images could be scored.

    Example:
        >>> rewards = torch.tensor([[0.0, 1.0, torch.nan, 3.0]])
        >>> mean_over_images(RewardOutput(rewards, {"r": rewards}, {"r": 1.0}), 2).total
        tensor([[0.5000, 3.0000]])
    """
    if images_per_row == 1:
        return rewards
    # One component may score an image that another cannot: all means must be over the same images.
    valid = rewards.valid
    return _map(
        rewards,
        lambda values: torch.where(valid, values, torch.nan).unflatten(1, (-1, images_per_row)).nanmean(-1),  # [P, G]
    )


def rewards_by_row(rewards: RewardOutput, images_per_row: int) -> RewardOutput:
    """Regroup the rewards of images so that the images of one row are a group.

    Args:
        rewards: [P, G * N], the N images of a row together.
        images_per_row: N.

    Returns:
        [P * G, N].
    """
    return _map(rewards, lambda values: values.reshape(-1, images_per_row))  # [P * G, N]


def _map(rewards: RewardOutput, change: Callable[[Tensor], Tensor]) -> RewardOutput:
    components = {name: change(values) for name, values in rewards.components.items()}
    return RewardOutput(change(rewards.total), components, rewards.weights)
