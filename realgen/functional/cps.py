"""Coefficients-preserving sampling; see ``flow_sde`` for what it has in common with the other transitions."""

from __future__ import annotations

import math

from realgen.functional.flow_sde import (
    Latents,
    Level,
    Rows,
    Sigma,
    Step,
    Transition,
    as_levels,
    step_mean,
    working_dtype,
)


def cps_step(latents: Latents, velocity: Latents, sigma: Sigma, next_sigma: Sigma, *, noise_level: Level) -> Step:
    """Take one step of coefficients-preserving sampling (Flow-CPS, arXiv:2509.05952).

    A part of the predicted noise makes room for fresh noise, so that the variances add up to sigma'^2:
    mean = (1 - sigma') x0_hat + sqrt(sigma'^2 - std^2) n_hat, which is the form at the top of this file. No noise is
    left over at the end, unlike with the first-order SDE steps. It is not a discretised SDE: std does not shrink with
    the step size. The step to sigma' = 0 has std = 0 and so no log-probability.

    The published code scores a step by -mean((x' - mean)^2), without std; here ``gaussian_log_prob`` scores it as the
    Gaussian it is.

    ``noise_level`` a is in [0, 1], from none of the noise fresh to all of it; the rest is as in ``flow_sde_step``.

    Example:
        >>> import torch
        >>> x, v = torch.ones(1, 4), torch.full((1, 4), 2.0)
        >>> sigma, next_sigma = torch.tensor([0.5]), torch.tensor([0.25])
        >>> cps_step(x, v, sigma, next_sigma, noise_level=0.0)  # 1 - 2/4
        (tensor([[0.5000, 0.5000, 0.5000, 0.5000]]), tensor([0.]))
    """
    dtype = working_dtype(latents, velocity)
    sigma, next_sigma, noise_level = as_levels(dtype, sigma, next_sigma, noise_level)
    std = next_sigma * (noise_level * (math.pi / 2)).sin()
    share = 2 * next_sigma * (noise_level * (math.pi / 4)).sin() ** 2
    return step_mean(latents, velocity, sigma, sigma - next_sigma, share), std


class CPS(Transition):
    """Coefficients-preserving sampling, see ``cps_step``: clean images after few steps.

    It draws other images than ``FlowSDE`` does: an approximate option, to be compared by what it learns.

    Args:
        noise_level: a in [0, 1], from none of the noise fresh to all of it.
    """

    def __init__(self, noise_level: float = 0.7) -> None:
        super().__init__(noise_level)
        if noise_level > 1:
            raise ValueError(f"noise_level of CPS must be 0 to 1, got {noise_level}.")

    def step(
        self, latents: Latents, velocity: Latents, sigma: Sigma, next_sigma: Sigma, sigma_max: Level, noisy: Rows = None
    ) -> Step:
        """Take ``cps_step``, which does not need ``sigma_max``."""
        level = self.level(latents, velocity, noisy)
        return cps_step(latents, velocity, sigma, next_sigma, noise_level=level)
