"""The spread of rewards over all prompts, which scales advantages where an objective asks for it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from realgen.functional.advantages import center


def rewards_std(
    rewards: Float[Tensor, "prompts group"], valid: Bool[Tensor, "prompts group"] | None = None
) -> Float[Tensor, ""]:
    """Return the population standard deviation over all prompts, RealGen's "global std".

    It mixes the spread between prompts into the scale; prompts whose samples are much alike weigh less than the others.

    Of all prompts of all ranks (ddof 0), over the samples that are ``valid``, ``None`` for all; 0 of fewer than two.
    """
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    return pooled_std(rewards.reshape(1, -1), valid.reshape(1, -1))


def pooled_std(rewards: Float[Tensor, "prompts group"], valid: Bool[Tensor, "prompts group"]) -> Float[Tensor, ""]:
    """Return the population standard deviation within groups, pooled over all prompts: sqrt(mean (R - mean_g)^2).

    One scale for all prompts that the spread between prompts does not enter. Of valid samples; 0 if there are none.
    """
    return (center(rewards, valid)[0].square().sum() / valid.sum().clamp(min=1)).sqrt()
