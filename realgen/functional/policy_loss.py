"""Importance ratios and the clipped surrogate, per decision."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def ratio_norm(
    sample: Float[Tensor, "rows decisions *latent"],
    mean: Float[Tensor, "rows decisions *latent"],
    old_mean: Float[Tensor, "rows decisions *latent"],
    std: Float[Tensor, "rows decisions"],
) -> Float[Tensor, "rows decisions"]:
    """Return a Gaussian step's ratio without its bias and step-dependent scale (GRPO-Guard, arXiv:2510.22319).

    The paper has ln r = (log_probs - old_log_probs + b) std with b = mean_dims((mean - old_mean)^2) / (2 std^2). The
    squares of the sample cancel, and ln r = mean_dims((sample - old_mean) (mean - old_mean)) / std is what is left:
    computed so, without the rounding of two log-probabilities that are almost equal. Of expectation 0, and without the
    1 / std that differs between steps, so that clipping acts on both sides and on all steps alike. b is taken per
    sample, as in the paper; the published code averages it over the batch.

    ``sample`` is x' that was drawn, ``mean`` and ``old_mean`` are of the current and the sampling policy's step;
    ``std`` > 0, with the step size in it, is that of both. The ratio is in float64, 1 on-policy: float32 has steps of
    1e-7 there, a twentieth of a clip range of 2e-6.

    Example:
        >>> one, zero = torch.ones(1, 1, 4), torch.zeros(1, 1, 4)
        >>> ratio_norm(2 * one, one, zero, torch.ones(1, 1)).log()
        tensor([[2.]], dtype=torch.float64)
    """
    return (((sample - old_mean) * (mean - old_mean)).flatten(2).mean(dim=-1) / std).double().exp()


def relative_difference(
    values: Float[Tensor, "rows decisions *latent"], old: Float[Tensor, "rows decisions *latent"]
) -> Float[Tensor, "rows decisions"]:
    """Return rms(values - old) / rms(old) of each decision; it depends neither on the latent's size nor on the step.

    Example:
        >>> relative_difference(torch.full((1, 1, 4), 1.5), torch.ones(1, 1, 4))
        tensor([[0.5000]])
    """
    norms = [torch.linalg.vector_norm(part.flatten(2), dim=-1) for part in (values - old, old)]
    return torch.where(norms[0] == 0, 0.0, norms[0] / norms[1])


def clipped_surrogate(
    ratio: Float[Tensor, "rows decisions"],
    advantages: Float[Tensor, " rows"],
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, "rows decisions"]:
    """Return PPO's loss, max(-A r, -A clamp(r, 1 - clip_low, 1 + clip_high)) (arXiv:1707.06347, equation 7).

    ``ratio`` is that of each decision; ``clip_low``, 0 to 1, and ``clip_high``, >= 0, are how far it may
    go below and above 1 before a bad or a good sample is left alone. Decisions share the advantage of their sample;
    lower is better.

    Example:
        >>> clipped_surrogate(torch.tensor([[0.5, 1.5]]), torch.tensor([2.0]), 0.2, 0.2)
        tensor([[-1.0000, -2.4000]])
    """
    advantages = advantages.unsqueeze(1)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))


def engine_weights(
    old_log_probs: Float[Tensor, "rows decisions"],
    engine_log_probs: Float[Tensor, "rows decisions"],
    mask: Bool[Tensor, "rows decisions"],
    *,
    correction: Literal["truncate", "mask"],
    limit: float,
) -> Float[Tensor, "rows decisions"]:
    """Return how much each decision counts that an engine drew with other probabilities than the policy's.

    With r = exp(old - engine), ``truncate`` weighs each decision by min(r, limit) (truncated importance sampling), and
    ``mask`` leaves out a sample whose mean ln r over its decisions is beyond -+ln(limit) (masked importance sampling):
    as verl and TRL define them. ``limit`` is above 1. Without gradient.

    Example:
        >>> ratio, mask = torch.tensor([[0.5, 8.0], [1.0, 1.5]]), torch.ones(2, 2, dtype=torch.bool)
        >>> engine_weights(ratio.log(), torch.zeros(2, 2), mask, correction="truncate", limit=2.0)
        tensor([[0.5000, 2.0000],
                [1.0000, 1.5000]])
        >>> engine_weights(ratio.log(), torch.zeros(2, 2), mask, correction="mask", limit=1.5)[:, 0]
        tensor([0., 1.])
    """
    log_ratio = torch.where(mask, old_log_probs - engine_log_probs, 0).detach()
    if correction == "truncate":
        return log_ratio.exp().clamp(max=limit)
    mean = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return (mean.abs() <= math.log(limit)).to(log_ratio).expand_as(log_ratio)


def is_clipped(
    ratio: Float[Tensor, "rows decisions"],
    advantages: Float[Tensor, " rows"],
    clip_low: float,
    clip_high: float,
) -> Bool[Tensor, "rows decisions"]:
    """Return where ``clipped_surrogate`` has no gradient because of the clip.

    True where a good sample is above the range or a bad one below it; the arguments are those of ``clipped_surrogate``.

    Example:
        >>> is_clipped(torch.tensor([[0.5, 1.5]]), torch.tensor([2.0]), 0.2, 0.2)
        tensor([[False,  True]])
    """
    advantages = advantages.unsqueeze(1)
    return ((advantages > 0) & (ratio > 1 + clip_high)) | ((advantages < 0) & (ratio < 1 - clip_low))


def masked_mean(values: Float[Tensor, "rows decisions"], mask: Bool[Tensor, "rows decisions"]) -> Float[Tensor, ""]:
    """Return the mean over the decisions that count, where the mask is True; 0 where nothing counts.

    What stands elsewhere does not matter.

    Example:
        >>> masked_mean(torch.tensor([[1.0, 3.0, torch.nan]]), torch.tensor([[True, True, False]]))
        tensor(2.)
    """
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)
