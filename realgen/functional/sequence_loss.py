"""Ratios of samples, and averages that depend on how many decisions a sample has.

A mask is True where a decision counts; what stands elsewhere in values and log-probabilities does not matter. Old
log-probabilities are those of the policy that sampled.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def sample_mean(values: Float[Tensor, "rows decisions"], mask: Bool[Tensor, "rows decisions"]) -> Float[Tensor, ""]:
    """Average the samples' own means, 1/N sum_i 1/|o_i| sum_t (GRPO, arXiv:2402.03300, equation 3).

    A sample none of whose decisions counts has the mean 0, and is one of the N all the same.
    """
    return (torch.where(mask, values, 0).sum(1) / mask.sum(1).clamp(min=1)).mean()


def constant_mean(
    values: Float[Tensor, "rows decisions"], mask: Bool[Tensor, "rows decisions"], most_decisions: int
) -> Float[Tensor, ""]:
    """Divide the sum over all decisions by a constant, 1/(N L) sum_i sum_t, so that length has no weight (Dr.GRPO).

    Source: arXiv:2503.20783, section 3.2 and listing 1, where L >= 1, ``most_decisions``, is the budget of tokens.
    """
    return torch.where(mask, values, 0).sum() / (len(values) * most_decisions)


def sequence_ratio(
    log_probs: Float[Tensor, "rows decisions"],
    old_log_probs: Float[Tensor, "rows decisions"],
    mask: Bool[Tensor, "rows decisions"],
) -> Float[Tensor, "rows decisions"]:
    """Return one importance ratio for all decisions of a sample, s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|) (GSPO).

    Source: arXiv:2507.18071, equation 7.

    The geometric mean of a sample's ratios, the same for each of its decisions; 1 on-policy.
    """
    log_ratio = torch.where(mask, log_probs - old_log_probs, 0).sum(1, keepdim=True)
    return (log_ratio / mask.sum(1, keepdim=True).clamp(min=1)).exp().expand_as(log_probs)
