"""Rollouts and scores, cut into groups of rows and joined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from realgen.types import Gaussian, PolicyScore, Rollout


def concatenate_scores(scores: Sequence[PolicyScore]) -> PolicyScore:
    """Join scores of consecutive rows; a part must be there in all of them or in none."""
    log_probs = torch.cat([score.log_probs for score in scores])
    velocities = [score.velocity for score in scores if score.velocity is not None]
    velocity = torch.cat(velocities) if velocities else None
    gaussians = [score.gaussian for score in scores if score.gaussian is not None]
    if not gaussians:
        return PolicyScore(log_probs, velocity=velocity)
    mean = torch.cat([gaussian.mean for gaussian in gaussians])
    std = torch.cat([gaussian.std for gaussian in gaussians])
    step_size = torch.cat([gaussian.step_size for gaussian in gaussians])
    return PolicyScore(log_probs, Gaussian(mean, std, step_size), velocity)


def concatenate_rollouts(chunks: Sequence[Rollout]) -> Rollout:
    """Join rollouts of consecutive prompts, with one group size, as many images a row and as many decisions in all."""
    first = chunks[0]
    if len(chunks) == 1:
        return first
    rewrites = [rewrite for chunk in chunks for rewrite in chunk.rewrites or ()]
    return Rollout(
        prompts=tuple(prompt for chunk in chunks for prompt in chunk.prompts),
        group_size=first.group_size,
        images=torch.cat([chunk.images for chunk in chunks]),
        sampled=concatenate_scores([chunk.sampled for chunk in chunks]),
        mask=torch.cat([chunk.mask for chunk in chunks]),
        trajectory={name: torch.cat([chunk.trajectory[name] for chunk in chunks]) for name in first.trajectory},
        rewrites=None if first.rewrites is None else tuple(rewrites),
        images_per_row=first.images_per_row,
    )


def select_rows(score: PolicyScore, rows: Int[Tensor, " picked"]) -> PolicyScore:
    """The given rows of a score, parts that are ``None`` included."""
    gaussian = score.gaussian
    if gaussian is not None:
        gaussian = Gaussian(gaussian.mean[rows], gaussian.std[rows], gaussian.step_size[rows])
    return PolicyScore(
        log_probs=score.log_probs[rows],
        gaussian=gaussian,
        velocity=None if score.velocity is None else score.velocity[rows],
    )


def select_prompts(rollout: Rollout, prompts: Int[Tensor, " picked"]) -> Rollout:
    """The given prompts of a rollout with their groups, in the order given.

    Args:
        rollout: Of P prompts.
        prompts: Numbers from 0 to P - 1.

    Returns:
        Their rollout.
    """
    size = rollout.group_size
    rows = (prompts[:, None] * size + torch.arange(size)).flatten()
    images = (rows[:, None] * rollout.images_per_row + torch.arange(rollout.images_per_row)).flatten()
    return Rollout(
        prompts=tuple(rollout.prompts[prompt] for prompt in prompts.tolist()),
        group_size=size,
        images=rollout.images[images],
        sampled=select_rows(rollout.sampled, rows),
        mask=rollout.mask[rows],
        trajectory={name: part[rows] for name, part in rollout.trajectory.items()},
        rewrites=rollout.rewrites and tuple(rollout.rewrites[row] for row in rows.tolist()),
        images_per_row=rollout.images_per_row,
    )
