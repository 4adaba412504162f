"""Group-relative advantages: each prompt's rewards against the mean of its own group.

A sample that could not be scored (``valid`` False) counts in no statistic and gets 0; what its reward holds, NaN
included, does not matter. A group without a difference to learn from (equal rewards, or fewer than two valid samples)
gets exact zeros, whatever rounding its mean suffers.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def group_advantages(
    rewards: Float[Tensor, "prompts group"],
    *,
    valid: Bool[Tensor, "prompts group"] | None = None,
    std_normalize: bool = True,
    std: Float[Tensor, ""] | None = None,
    eps: float = 1e-4,
) -> Float[Tensor, "prompts group"]:
    """Center each prompt's rewards on their group's mean, (R - mean) / (std + eps).

    Source: GRPO (DeepSeekMath, arXiv:2402.03300, section 4.1.2).

    Args:
        rewards: Higher is better. Row = one prompt with its whole group.
        valid: True where a sample could be scored; ``None``: all could.
        std_normalize: Divide by a standard deviation (population, ddof 0). False gives Dr.GRPO's (arXiv:2503.20783).
        std: Divide by this one, say of all prompts of all ranks, in place of each group's own.
        eps: Added to the standard deviation; unit of the reward.

    Returns:
        Advantages; the valid ones of a prompt sum to zero.

    Raises:
        ValueError: If ``std`` is given and ``std_normalize`` is False.

    Example:
        >>> group_advantages(torch.tensor([[1.0, 3.0], [0.1, 0.1]]), std_normalize=False)
        tensor([[-1.,  1.],
                [ 0.,  0.]])
    """
    if std is not None and not std_normalize:
        raise ValueError(f"std must be None when std_normalize is False, got {std.item():.4g}.")
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    centered, count = center(rewards, valid)
    if not std_normalize:
        return centered
    if std is None:
        return centered / ((centered.square().sum(dim=1, keepdim=True) / count).sqrt() + eps)
    return centered / (std + eps)


def weighted_advantages(
    components: Mapping[str, Float[Tensor, "prompts group"]],
    weights: Mapping[str, float],
    *,
    valid: Bool[Tensor, "prompts group"] | None = None,
    std_normalize: bool = True,
    std: Mapping[str, Float[Tensor, ""]] | None = None,
    divide_by_weights: bool = True,
    eps: float = 1e-4,
) -> Float[Tensor, "prompts group"]:
    """Normalise each reward on its own, then add with weights, sum_m w_m A_m (GDPO, arXiv:2601.05242; RealGen).

    No reward drowns another by its scale, as happens when rewards are added first. GDPO's second normalisation, of the
    sum over the batch, is ``batch_normalized``; RealGen leaves it out.

    Args:
        components: Rewards by name, higher is better.
        weights: Weight of each reward; one of weight 0 is ignored, whatever its rewards hold.
        valid: True where every reward that has a weight could score a sample; ``None``: all could.
        std_normalize: Divide each reward by a standard deviation.
        std: Standard deviation of each reward, in place of each group's own.
        divide_by_weights: Divide by sum_m w_m, so that advantages keep their scale when a reward is added.
        eps: Added to the standard deviation; unit of the reward.

    Returns:
        Advantages; the valid ones of a prompt sum to zero.

    Raises:
        ValueError: If ``weights`` or ``std`` do not name the same rewards as ``components``, or there is none.
        ValueError: If the weights to divide by do not add up to something positive.

    Example:
        >>> each = {"realism": torch.tensor([[0.0, 1.0]]), "alignment": torch.tensor([[10.0, 30.0]])}
        >>> weighted_advantages(each, {"realism": 1.0, "alignment": 3.0}, std_normalize=False, divide_by_weights=False)
        tensor([[-30.5000,  30.5000]])
    """
    for name, named in (("weights", weights), ("std", std)):
        if not components or (named is not None and named.keys() != components.keys()):
            raise ValueError(
                f"{name} must name the rewards {sorted(components)} (at least one), got {sorted(named or {})}."
            )
    if divide_by_weights and sum(weights.values()) <= 0:
        raise ValueError(f"weights must have a positive sum to be divided by, got {dict(weights)}.")
    total = torch.zeros_like(next(iter(components.values())))
    for name, rewards in components.items():
        if weights[name] != 0:
            given = None if std is None else std[name]
            advantages = group_advantages(rewards, valid=valid, std_normalize=std_normalize, std=given, eps=eps)
            total = total + weights[name] * advantages
    return total / sum(weights.values()) if divide_by_weights else total


def batch_normalized(
    advantages: Float[Tensor, "prompts group"], valid: Bool[Tensor, "prompts group"], eps: float = 1e-4
) -> Float[Tensor, "prompts group"]:
    """Divide advantages of all prompts by their standard deviation over the valid samples (GDPO, arXiv:2601.05242).

    Their mean, which GDPO subtracts, is 0 already, as that of every group.

    Example:
        >>> batch_normalized(torch.tensor([[2.0, -2.0], [0.0, 0.0]]), torch.ones(2, 2, dtype=torch.bool), eps=0.0)
        tensor([[ 1.4142, -1.4142],
                [ 0.0000,  0.0000]])
    """
    return advantages / ((advantages.square().sum() / valid.sum().clamp(min=1)).sqrt() + eps)


def center(
    rewards: Float[Tensor, "prompts group"], valid: Bool[Tensor, "prompts group"]
) -> tuple[Float[Tensor, "prompts group"], Float[Tensor, "prompts 1"]]:
    """Return valid rewards less their group mean, 0 elsewhere; and the number of valid samples (1 if there is none)."""
    count = valid.sum(dim=1, keepdim=True).clamp(min=1).to(rewards.dtype)
    # Measured from the best reward, equal rewards are exact zeros before any mean can round.
    best = torch.where(valid, rewards, -torch.inf).amax(dim=1, keepdim=True)
    gap = torch.where(valid, rewards - best, 0)
    return torch.where(valid, gap - gap.sum(dim=1, keepdim=True) / count, 0), count
