"""Distances between policy and reference, per decision: of velocities, Gaussian steps, and log-probabilities."""

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
        >>> k2(torch.tensor([[-1.0]]), torch.tensor([[-3.0]]))
        tensor([[2.]])
    """
    return (log_probs - ref_log_probs).square() / 2
