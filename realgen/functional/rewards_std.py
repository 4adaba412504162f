"""The spread of rewards over all prompts, which scales advantages where an objective asks for it."""

from __future__ import annotations

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

    Example:
        >>> rewards_std(torch.tensor([[1.0, 3.0], [1.0, 3.0]]))
        tensor(1.)
    """
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    centered, count = center(rewards.reshape(1, -1), valid.reshape(1, -1))
    return (centered.square().sum() / count.sum()).sqrt()
