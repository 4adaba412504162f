"""Rollouts and scores of consecutive rows, joined."""

from __future__ import annotations

from collections.abc import Sequence

import torch

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
    """Join rollouts of consecutive prompts, with one group size and as many decisions in all of them."""
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
    )
