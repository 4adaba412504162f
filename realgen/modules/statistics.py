"""What an iteration says about its rewards and advantages, as scalars to log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.parallel import gather_first_axis
from realgen.types import RewardOutput


def gather_rewards(rewards: RewardOutput) -> RewardOutput:
    """The rewards of all ranks' prompts, the same on every rank."""
    stacked = torch.stack([rewards.total, *rewards.parts.values()], dim=1)  # [P, 1 + parts, G]
    total, *parts = gather_first_axis(stacked).unbind(1)
    return RewardOutput(total, dict(zip(rewards.parts, parts, strict=True)), rewards.weights)


def check_any_judged(rewards: RewardOutput, iteration: int) -> None:
    """Refuse an iteration that teaches nothing because the rewards failed.

    Raises:
        RuntimeError: If not one sample could be judged; the message counts the failures of each part.
    """
    if not bool(rewards.valid.any()):
        counts = ", ".join(f"{name}: {int(part.isnan().sum())}" for name, part in rewards.parts.items())
        raise RuntimeError(
            f"not one of the {rewards.total.numel()} samples of iteration {iteration} could be judged; failed by "
            f"reward part: {counts}. Look at the reward that fails everywhere."
        )


def reward_statistics(rewards: RewardOutput) -> dict[str, Float[Tensor, ""]]:
    """Means over the samples that could be judged, spread inside the groups, and failures.

    Args:
        rewards: Of all ranks, with at least one sample that could be judged.

    Returns:
        ``reward``, ``reward/<part>``, ``reward_std`` (mean over prompts of the group's population standard deviation)
        and ``failed/<part>`` (a count).
    """
    squares = (rewards.total - rewards.total.nanmean(1, keepdim=True)) ** 2
    statistics = {"reward": rewards.total.nanmean(), "reward_std": squares.nanmean(1).sqrt().nanmean()}
    for name, part in rewards.parts.items():
        statistics[f"reward/{name}"] = part.nanmean()
        statistics[f"failed/{name}"] = part.isnan().sum().float()
    return statistics


def advantage_statistics(advantages: Float[Tensor, "prompts group"]) -> dict[str, Float[Tensor, ""]]:
    """Moments of the advantages, and the share of groups that teach nothing because all their advantages are zero.

    Example:
        >>> values = advantage_statistics(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        >>> {name: float(value) for name, value in values.items() if name != "advantage/std"}
        {'advantage/mean': 0.0, 'advantage/absmax': 1.0, 'zero_variance_groups': 0.5}
    """
    return {
        "advantage/mean": advantages.mean(),
        "advantage/std": advantages.std(correction=0),
        "advantage/absmax": advantages.abs().amax(),
        "zero_variance_groups": (advantages == 0).all(1).float().mean(),
    }


def combine_microbatches(
    statistics: Sequence[Mapping[str, Float[Tensor, ""]]], weights: Sequence[float]
) -> dict[str, Float[Tensor, ""]]:
    """Join the statistics of microbatches: means by their share of the decisions, maxima (``max`` in the name) by size.

    Args:
        statistics: The same names in each.
        weights: Decisions of each microbatch, in any unit; not all zero.

    Example:
        >>> first = {"kl": torch.tensor(1.0), "ratio_max": torch.tensor(1.5)}
        >>> second = {"kl": torch.tensor(4.0), "ratio_max": torch.tensor(1.1)}
        >>> combine_microbatches([first, second], [1.0, 2.0])
        {'kl': tensor(3.), 'ratio_max': tensor(1.5000)}
    """
    shares = torch.tensor(weights) / sum(weights)
    return {
        name: stacked.amax() if _is_maximum(name) else (stacked * shares.to(stacked)).sum()
        for name, stacked in ((name, torch.stack([each[name] for each in statistics])) for name in statistics[0])
    }


def combine_ranks(statistics: Mapping[str, Float[Tensor, ""]]) -> dict[str, Float[Tensor, ""]]:
    """Join the same statistics of all ranks with one collective: means, and maxima (``max`` in the name).

    Example:
        >>> combine_ranks({"kl": torch.tensor(2.0)})
        {'kl': tensor(2.)}
    """
    columns = gather_first_axis(torch.stack([value.float() for value in statistics.values()])[None]).unbind(1)
    return {
        name: column.amax() if _is_maximum(name) else column.mean()
        for name, column in zip(statistics, columns, strict=True)
    }


def _is_maximum(name: str) -> bool:
    return "max" in name
