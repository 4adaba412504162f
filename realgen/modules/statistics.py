"""Statistics of an iteration's rewards and advantages as scalars to log, and how they are joined over ranks."""

from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import nearest
from realgen.parallel import gather_first_axis
from realgen.types import RewardOutput


def gather_rewards(rewards: RewardOutput) -> RewardOutput:
    """Return the rewards of all ranks' prompts, the same on every rank."""
    stacked = torch.stack([rewards.total, *rewards.components.values()], dim=1)  # [P, 1 + components, G]
    total, *components = gather_first_axis(stacked).unbind(1)
    return RewardOutput(total, dict(zip(rewards.components, components, strict=True)), rewards.weights)


def check_any_scored(rewards: RewardOutput, iteration: int) -> None:
    """Raise RuntimeError, with the failures of each component, if not one sample could be scored."""
    if not bool(rewards.valid.any()):
        counts = ", ".join(f"{name}: {int(values.isnan().sum())}" for name, values in rewards.components.items())
        raise RuntimeError(
            f"not one of the {rewards.total.numel()} samples of iteration {iteration} could be scored; failed by "
            f"reward component: {counts}. Look at the reward that fails everywhere."
        )


def reward_statistics(rewards: RewardOutput) -> dict[str, Float[Tensor, ""]]:
    """Return means over the samples that could be scored, their spread inside the groups, and counts of failures.

    Of all ranks' rewards, with at least one that could be scored: ``reward``, ``reward/<component>``, ``reward_std``
    (mean over prompts of the group's population standard deviation) and ``failed/<component>``, a count.
    """
    squares = (rewards.total - rewards.total.nanmean(1, keepdim=True)) ** 2
    statistics = {"reward": rewards.total.nanmean(), "reward_std": squares.nanmean(1).sqrt().nanmean()}
    for name, values in rewards.components.items():
        statistics[f"reward/{name}"] = values.nanmean()
        statistics[f"failed/{name}"] = values.isnan().sum().float()
    return statistics


def advantage_statistics(advantages: Float[Tensor, "prompts group"]) -> dict[str, Float[Tensor, ""]]:
    """Return moments of the advantages, and the share of groups without a learning signal: all advantages zero."""
    return {
        "advantage/mean": advantages.mean(),
        "advantage/std": advantages.std(correction=0),
        "advantage/absmax": advantages.abs().amax(),
        "zero_variance_groups": (advantages == 0).all(1).float().mean(),
    }


def combine_microbatches(
    statistics: Sequence[Mapping[str, Float[Tensor, ""]]], weights: Sequence[float], *, maxima: Collection[str]
) -> dict[str, Float[Tensor, ""]]:
    """Join the statistics of microbatches: the named maxima by their maximum, all others by their weighted mean.

    All have the same names; ``weights`` are the decisions of each microbatch, in any unit, not all zero.

    Raises:
        ValueError: If one of these is no statistic, whose maximum would be a mean under its right name.
    """
    for name in set(maxima) - statistics[0].keys():
        raise ValueError(f"maxima: {name!r} is no statistic of the loss. {nearest(name, statistics[0])}".rstrip())
    shares = torch.tensor(weights) / sum(weights)
    stacked = {name: torch.stack([each[name] for each in statistics]) for name in statistics[0]}
    return {
        name: values.amax() if name in maxima else (values * shares.to(values)).sum()
        for name, values in stacked.items()
    }


def combine_ranks(
    statistics: Mapping[str, Float[Tensor, ""]], *, maxima: Collection[str]
) -> dict[str, Float[Tensor, ""]]:
    """Join the same statistics of all ranks with one collective: the named maxima by their maximum, others by mean."""
    columns = gather_first_axis(torch.stack([value.float() for value in statistics.values()])[None]).unbind(1)
    return {
        name: column.amax() if name in maxima else column.mean()
        for name, column in zip(statistics, columns, strict=True)
    }
