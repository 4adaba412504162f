"""Divergences from the reference that the default objective does not use: of Gaussian steps, and of tokens."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def gaussian_kl(
    mean: Float[Tensor, "rows decisions *latent"],
    ref_mean: Float[Tensor, "rows decisions *latent"],
    std: Float[Tensor, "rows decisions"],
) -> Float[Tensor, "rows decisions"]:
    """Return the KL between two Gaussian steps of one std, mean_dims((mean - ref_mean)^2) / (2 std^2).

    The mean over the elements of the latent, in keeping with ``gaussian_log_prob``; symmetric. The published code
    leaves the step size out of the std, which multiplies the true divergence by sigma - sigma' (about 1 / num_steps):
    divide a ``kl_coef`` meant for it by ``num_steps``.

    ``std`` > 0 is that of both steps, with the step size in it. The result is per element, >= 0.

    Example:
        >>> import torch
        >>> gaussian_kl(torch.ones(1, 1, 4), torch.zeros(1, 1, 4), torch.tensor([[0.5]]))
        tensor([[2.]])
    """
    return (mean - ref_mean).square().flatten(2).mean(dim=-1) / (2 * std.square())


def k2(
    log_probs: Float[Tensor, "rows decisions"], ref_log_probs: Float[Tensor, "rows decisions"]
) -> Float[Tensor, "rows decisions"]:
    """Return Schulman's k2 estimator of KL(policy || reference), (ln r)^2 / 2 with r = reference / policy.

    Biased, of low variance, >= 0; on-policy its gradient is that of the KL. The decisions are the policy's own.

    Example:
        >>> import torch
        >>> k2(torch.tensor([[-1.0]]), torch.tensor([[-3.0]]))
        tensor([[2.]])
    """
    return (log_probs - ref_log_probs).square() / 2
