"""Distances between policy and reference, per decision: of velocities, and of anything with a log-probability."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def velocity_kl(
    velocity: Float[Tensor, "rows decisions *latent"], ref_velocity: Float[Tensor, "rows decisions *latent"]
) -> Float[Tensor, "rows decisions"]:
    """Return the mean squared difference of velocities: the KL without its step-dependent weight, as in RealGen.

    Not a divergence: it weighs all steps alike, where ``gaussian_kl`` weighs the steps of little noise most. It is a
    mean square per element, >= 0.

    Example:
        >>> velocity_kl(torch.full((1, 1, 4), 3.0), torch.ones(1, 1, 4))
        tensor([[4.]])
    """
    return (velocity - ref_velocity).square().flatten(2).mean(dim=-1)


def norm_ratio(
    velocity: Float[Tensor, "rows decisions *latent"], ref_velocity: Float[Tensor, "rows decisions *latent"]
) -> Float[Tensor, "rows decisions"]:
    """Return |v| / |v_ref| of each decision; RL makes it grow, by 5 to 15 % in NormGuard's tests (arXiv:2606.27771)."""
    return velocity.flatten(2).norm(dim=-1) / ref_velocity.flatten(2).norm(dim=-1)


def k3(
    log_probs: Float[Tensor, "rows decisions"], ref_log_probs: Float[Tensor, "rows decisions"]
) -> Float[Tensor, "rows decisions"]:
    """Return Schulman's k3 estimator of KL(policy || reference), r - 1 - ln r with r = reference / policy; GRPO's.

    Unbiased, of low variance, >= 0 (arXiv:2402.03300, equation 4). The decisions are the policy's own.

    Example:
        >>> k3(torch.tensor([[-1.0]]), torch.tensor([[-1.0]]))
        tensor([[0.]])
    """
    log_ratio = ref_log_probs - log_probs
    return torch.expm1(log_ratio) - log_ratio  # expm1 keeps the digits of the small ratios of diffusion
