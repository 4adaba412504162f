"""One denoising step of a rectified flow, as a Gaussian: Flow-SDE, Dance-SDE and CPS, and their log-probabilities.

A rectified flow mixes data and noise, x = (1 - sigma) x0 + sigma n, and its model predicts the velocity
v = E[n - x0 | x]. State and velocity together name the predicted noise, n_hat = x + (1 - sigma) v. With
dt = sigma' - sigma < 0, every transition here is the Euler step, less a share c of the predicted noise, plus fresh
noise:

    mean = x + v dt - c n_hat        x' = mean + std eps,  eps ~ N(0, I)

What differs is how much is exchanged (a = ``noise_level``; s1 = sigma, but ``sigma_max`` where sigma = 1):

    Flow-SDE    std = a sqrt(sigma / (1 - s1)) sqrt(-dt)      c = a^2 (-dt) / (2 (1 - s1))
    Dance-SDE   std = a sqrt(-dt)                             c = a^2 (-dt) / (2 sigma)
    CPS         std = sigma' sin(a pi / 2)                    c = 2 sigma' sin^2(a pi / 4)

The first two are one SDE: the score is -n_hat / sigma, and dx = (v - g^2 score / 2) dt + g dw keeps the flow's
marginals for any g, hence c = g^2 (-dt) / (2 sigma); Flow-GRPO takes g = a sqrt(sigma / (1 - s1)), DanceGRPO g = a.
At a = 0 all three are the Euler step to the bit, with std = 0.

Axes: ``sigma``, ``next_sigma`` and per-row levels have the leading axes of the latents: [rows] over [rows, C, h, w],
[rows, S] over [rows, S, C, h, w]; axes of size 1 and 0-d tensors broadcast. Computed in the type of the latents and
velocity, float32 at least.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Latents = Float[Tensor, "..."]
"""[*lead, *latent], for example [rows, C, h, w] or [rows, S, C, h, w]."""
Sigma = Float[Tensor, "*#lead"]
"""[*lead], the leading axes of the latents."""
Level = float | Float[Tensor, "*#lead"]
"""One number for all rows, or [*lead]."""
Rows = Bool[Tensor, "*#lead"] | None
"""[*lead] which rows take part; ``None``: all."""
Step = tuple[Float[Tensor, "..."], Float[Tensor, "..."]]
"""Mean [*lead, *latent] and std [*lead] of the next latents."""


def flow_sde_step(
    latents: Latents, velocity: Latents, sigma: Sigma, next_sigma: Sigma, *, noise_level: Level, sigma_max: Level
) -> Step:
    """Take one step of Flow-GRPO's SDE (arXiv:2505.05470).

    Args:
        latents: x at ``sigma``.
        velocity: v, noise minus data, shaped like ``latents``.
        sigma: Noise level of the latents, (0, 1].
        next_sigma: Noise level to go to, below ``sigma``.
        noise_level: a >= 0; rows with 0 take the Euler step.
        sigma_max: Second entry of the sigma table, below 1. It stands for sigma = 1 (up to 1e-6) in 1 / (1 - sigma).

    Returns:
        Mean, and std of the noise to add, the step size included.

    Example:
        >>> x, v = torch.ones(1, 4), torch.full((1, 4), 2.0)
        >>> sigma, next_sigma = torch.tensor([0.5]), torch.tensor([0.25])
        >>> flow_sde_step(x, v, sigma, next_sigma, noise_level=1.0, sigma_max=0.75)  # 1 - 2/4 - (1/4) * 2, sqrt(1/4)
        (tensor([[0., 0., 0., 0.]]), tensor([0.5000]))
    """
    dtype = working_dtype(latents, velocity)
    sigma, next_sigma, noise_level, sigma_max = as_levels(dtype, sigma, next_sigma, noise_level, sigma_max)
    step_size = sigma - next_sigma
    data_share = 1 - torch.where(1 - sigma < 1e-6, sigma_max, sigma)
    std = noise_level * (sigma / data_share * step_size).sqrt()
    return step_mean(latents, velocity, sigma, step_size, noise_level**2 * step_size / (2 * data_share)), std


def gaussian_log_prob(sample: Latents, mean: Latents, std: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
    """Return the log-density of a Gaussian step, as the MEAN over the elements of the latent (Flow-GRPO's convention).

    The mean, not the sum: a ratio then departs from 1 by little, whence clip ranges of 1e-4 and below.

    Args:
        sample: x' that was drawn; no gradient flows through it, only through ``mean``.
        mean: Mean of the step.
        std: > 0; its axes are the leading ones, the rest is averaged over. 0 has no finite answer.

    Returns:
        Log-density per element, float32 at least.

    Example:
        >>> gaussian_log_prob(torch.zeros(1, 4), torch.zeros(1, 4), torch.ones(1))  # -ln(2 pi) / 2
        tensor([-0.9189])
    """
    dtype = working_dtype(sample, mean)
    std = std.to(dtype)
    deviation = (sample.detach().to(dtype) - mean.to(dtype)) / _over(std, mean)
    return -deviation.square().flatten(std.ndim).mean(dim=-1) / 2 - std.log() - math.log(2 * math.pi) / 2


class Transition(ABC):
    """How a diffusion policy takes a stochastic step; chosen by config.

    Args:
        noise_level: How much noise a step exchanges; 0 is the deterministic flow.
    """

    def __init__(self, noise_level: float) -> None:
        if not 0 <= noise_level < math.inf:
            raise ValueError(f"noise_level must be finite and at least 0, got {noise_level}.")
        self.noise_level = noise_level

    @abstractmethod
    def step(
        self, latents: Latents, velocity: Latents, sigma: Sigma, next_sigma: Sigma, sigma_max: Level, noisy: Rows = None
    ) -> Step:
        """Return mean and std of the next latents; the arguments are those of ``flow_sde_step``.

        Rows that are not ``noisy``, outside the SDE window, take the Euler step, with std 0; ``None``: all are inside.
        """

    def level(self, latents: Tensor, velocity: Tensor, noisy: Tensor | None) -> Level:
        """Return the noise level of each row, 0 where the step is Euler's."""
        return self.noise_level if noisy is None else noisy.to(working_dtype(latents, velocity)) * self.noise_level


class FlowSDE(Transition):
    """Flow-GRPO's SDE, see ``flow_sde_step``; the one to try first.

    Args:
        noise_level: a >= 0. Flow-GRPO trains with 0.7, RealGen with 0.9.
    """

    def __init__(self, noise_level: float = 0.7) -> None:
        super().__init__(noise_level)

    def step(
        self, latents: Latents, velocity: Latents, sigma: Sigma, next_sigma: Sigma, sigma_max: Level, noisy: Rows = None
    ) -> Step:
        """Take ``flow_sde_step``."""
        level = self.level(latents, velocity, noisy)
        return flow_sde_step(latents, velocity, sigma, next_sigma, noise_level=level, sigma_max=sigma_max)


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the widest type among the tensors, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def as_levels(dtype: torch.dtype, sigma: Tensor, *levels: float | Tensor) -> list[Tensor]:
    """Return sigma and the levels that go with it as tensors of one type on one device."""
    # A number is filled in on the device: as a copy from the host it would make the host wait for the device.
    how: dict[str, Any] = {"dtype": dtype, "device": sigma.device}
    levels = (sigma, *levels)
    return [level.to(**how) if isinstance(level, Tensor) else torch.full((), level, **how) for level in levels]


def step_mean(latents: Tensor, velocity: Tensor, sigma: Tensor, step_size: Tensor, share: Tensor) -> Tensor:
    """Return the Euler step, less a share of the predicted noise."""
    latents, velocity = latents.to(sigma.dtype), velocity.to(sigma.dtype)
    predicted_noise = latents + _over(1 - sigma, latents) * velocity
    return latents - _over(step_size, latents) * velocity - _over(share, latents) * predicted_noise


def _over(values: Tensor, latents: Tensor) -> Tensor:
    """Return values of the leading axes, shaped to broadcast over the latents."""
    return values.reshape(*values.shape, *(1,) * (latents.ndim - values.ndim))
