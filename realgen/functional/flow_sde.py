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
        noise_level: a, how much noise a step exchanges; 0 is the deterministic flow.
    """

    def __init__(self, noise_level: float) -> None:
        if not 0 <= noise_level < math.inf:
            raise ValueError(f"noise_level must be finite and at least 0, got {noise_level}.")
        self.noise_level = noise_level

    @abstractmethod
    def exchange(
        self, sigma: Sigma, next_sigma: Sigma, level: Float[Tensor, "*#lead"], sigma_max: Float[Tensor, "*#lead"]
    ) -> tuple[Float[Tensor, "*lead"], Float[Tensor, "*lead"]]:
        """Return std and share c of a step at noise level a, see the top of this file; of one type and device."""

    def step(
        self, latents: Latents, velocity: Latents, sigma: Sigma, next_sigma: Sigma, sigma_max: Level, noisy: Rows = None
    ) -> Step:
        """Return mean of the next latents, and std of the noise to add, the step size included.

        Args:
            latents: x at ``sigma``.
            velocity: v, noise minus data, shaped like ``latents``.
            sigma: Noise level of the latents, (0, 1].
            next_sigma: Noise level to go to, below ``sigma``.
            sigma_max: Second entry of the sigma table, below 1; stands for sigma = 1 (up to 1e-6) in 1 / (1 - sigma).
            noisy: Other rows, outside the SDE window, take the Euler step, with std 0; ``None``: all are inside.
        """
        dtype = working_dtype(latents, velocity)
        level = self.noise_level if noisy is None else noisy.to(dtype) * self.noise_level
        # A number is filled in on the device: as a copy from the host it would make the host wait for the device.
        how: dict[str, Any] = {"dtype": dtype, "device": sigma.device}
        given = (sigma, next_sigma, level, sigma_max)
        levels = [each.to(**how) if isinstance(each, Tensor) else torch.full((), each, **how) for each in given]
        std, share = self.exchange(*levels)
        latents, velocity = latents.to(dtype), velocity.to(dtype)
        predicted_noise = latents + _over(1 - levels[0], latents) * velocity
        euler = latents - _over(levels[0] - levels[1], latents) * velocity
        return euler - _over(share, latents) * predicted_noise, std

    def mean_std(self, sigmas: Float[Tensor, " nodes"]) -> Float[Tensor, ""]:
        """Return the mean standard deviation of the steps of a schedule, each taken with noise."""
        state = torch.zeros_like(sigmas[:-1, None])
        return self.step(state, state, sigmas[:-1], sigmas[1:], sigmas[1])[1].mean()


class FlowSDE(Transition):
    """Flow-GRPO's SDE (arXiv:2505.05470); the one to try first.

    Args:
        noise_level: a >= 0. Flow-GRPO trains with 0.7, RealGen with 0.9.

    Example:
        >>> x, v = torch.ones(1, 4), torch.full((1, 4), 2.0)
        >>> sigma, next_sigma = torch.tensor([0.5]), torch.tensor([0.25])
        >>> FlowSDE(1.0).step(x, v, sigma, next_sigma, 0.75)  # 1 - 2/4 - (1/4) * 2, sqrt(1/4)
        (tensor([[0., 0., 0., 0.]]), tensor([0.5000]))
    """

    def __init__(self, noise_level: float = 0.7) -> None:
        super().__init__(noise_level)

    def exchange(self, sigma: Tensor, next_sigma: Tensor, level: Tensor, sigma_max: Tensor) -> tuple[Tensor, Tensor]:
        """Return Flow-SDE's std and share."""
        step_size, data_share = sigma - next_sigma, 1 - torch.where(1 - sigma < 1e-6, sigma_max, sigma)
        return level * (sigma / data_share * step_size).sqrt(), level**2 * step_size / (2 * data_share)


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the widest type among the tensors, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _over(values: Tensor, latents: Tensor) -> Tensor:
    """Return values of the leading axes, shaped to broadcast over the latents."""
    return values.reshape(*values.shape, *(1,) * (latents.ndim - values.ndim))
