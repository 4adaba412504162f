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
    dtype = _working_dtype(latents, velocity)
    sigma, next_sigma, noise_level, sigma_max = _levels(dtype, sigma, next_sigma, noise_level, sigma_max)
    step_size = sigma - next_sigma
    data_share = 1 - torch.where(1 - sigma < 1e-6, sigma_max, sigma)
    std = noise_level * (sigma / data_share * step_size).sqrt()
    return _mean(latents, velocity, sigma, step_size, noise_level**2 * step_size / (2 * data_share)), std


def dance_sde_step(latents: Latents, velocity: Latents, sigma: Sigma, next_sigma: Sigma, *, noise_level: Level) -> Step:
    """Take one step of DanceGRPO's SDE, with constant diffusion (arXiv:2505.07818).

    The score follows from the velocity: given x0 the state is N((1 - sigma) x0, sigma^2), so the score is
    -(x - (1 - sigma) E[x0 | x]) / sigma^2; with E[x0 | x] = x - sigma v it is -(x + (1 - sigma) v) / sigma. The step is
    x + v dt - a^2 score dt / 2.

    Args:
        latents: x at ``sigma``.
        velocity: v, noise minus data, shaped like ``latents``.
        sigma: Noise level of the latents, (0, 1].
        next_sigma: Noise level to go to, below ``sigma``.
        noise_level: a >= 0, the paper's eta; rows with 0 take the Euler step.

    Returns:
        Mean, and std of the noise to add, the step size included.

    Example:
        >>> x, v = torch.ones(1, 4), torch.full((1, 4), 2.0)
        >>> sigma, next_sigma = torch.tensor([0.5]), torch.tensor([0.25])
        >>> dance_sde_step(x, v, sigma, next_sigma, noise_level=1.0)  # 1 - 2/4 - (1/4) * 2, sqrt(1/4)
        (tensor([[0., 0., 0., 0.]]), tensor([0.5000]))
    """
    dtype = _working_dtype(latents, velocity)
    sigma, next_sigma, noise_level = _levels(dtype, sigma, next_sigma, noise_level)
    step_size = sigma - next_sigma
    share = noise_level**2 * step_size / (2 * sigma)
    return _mean(latents, velocity, sigma, step_size, share), noise_level * step_size.sqrt()


def cps_step(latents: Latents, velocity: Latents, sigma: Sigma, next_sigma: Sigma, *, noise_level: Level) -> Step:
    """Take one step of coefficients-preserving sampling (Flow-CPS, arXiv:2509.05952).

    A part of the predicted noise makes room for fresh noise, so that the variances add up to sigma'^2:
    mean = (1 - sigma') x0_hat + sqrt(sigma'^2 - std^2) n_hat, which is the form at the top of this file. No noise is
    left over at the end, unlike with the first-order SDE steps. It is not a discretised SDE: std does not shrink with
    the step size. The step to sigma' = 0 has std = 0 and so no log-probability.

    The published code scores a step by -mean((x' - mean)^2), without std; here ``gaussian_log_prob`` scores it as the
    Gaussian it is.

    Args:
        latents: x at ``sigma``.
        velocity: v, noise minus data, shaped like ``latents``.
        sigma: Noise level of the latents, (0, 1].
        next_sigma: Noise level to go to, below ``sigma``.
        noise_level: a in [0, 1], from none of the noise fresh to all of it; rows with 0 take the Euler step.

    Returns:
        Mean, and std of the noise to add.

    Example:
        >>> x, v = torch.ones(1, 4), torch.full((1, 4), 2.0)
        >>> sigma, next_sigma = torch.tensor([0.5]), torch.tensor([0.25])
        >>> cps_step(x, v, sigma, next_sigma, noise_level=0.0)  # 1 - 2/4
        (tensor([[0.5000, 0.5000, 0.5000, 0.5000]]), tensor([0.]))
    """
    dtype = _working_dtype(latents, velocity)
    sigma, next_sigma, noise_level = _levels(dtype, sigma, next_sigma, noise_level)
    std = next_sigma * (noise_level * (math.pi / 2)).sin()
    share = 2 * next_sigma * (noise_level * (math.pi / 4)).sin() ** 2
    return _mean(latents, velocity, sigma, sigma - next_sigma, share), std


def gaussian_log_prob(sample: Latents, mean: Latents, std: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
    """Log-density of a Gaussian step, as the MEAN over the elements of the latent (Flow-GRPO's convention).

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
    dtype = _working_dtype(sample, mean)
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
        """Return mean and std of the next latents.

        Args:
            latents: x at ``sigma``.
            velocity: v, noise minus data, shaped like ``latents``.
            sigma: Noise level of the latents, (0, 1].
            next_sigma: Noise level to go to, below ``sigma``.
            sigma_max: Second entry of the sigma table.
            noisy: False for rows outside the SDE window, which take the Euler step; ``None``: all are inside.

        Returns:
            Mean, and std of the noise to add; 0 where not noisy.
        """

    def _level(self, latents: Tensor, velocity: Tensor, noisy: Tensor | None) -> Level:
        """Noise level of each row, 0 where the step is Euler's."""
        return self.noise_level if noisy is None else noisy.to(_working_dtype(latents, velocity)) * self.noise_level


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
        level = self._level(latents, velocity, noisy)
        return flow_sde_step(latents, velocity, sigma, next_sigma, noise_level=level, sigma_max=sigma_max)


class DanceSDE(Transition):
    """DanceGRPO's SDE, see ``dance_sde_step``: the same noise at all sigmas.

    Its steps draw other images than those of ``FlowSDE``: an approximate option, to be compared by what it learns.

    Args:
        noise_level: a >= 0, the paper's eta.
    """

    def __init__(self, noise_level: float = 0.3) -> None:
        super().__init__(noise_level)

    def step(
        self, latents: Latents, velocity: Latents, sigma: Sigma, next_sigma: Sigma, sigma_max: Level, noisy: Rows = None
    ) -> Step:
        """Take ``dance_sde_step``, which does not need ``sigma_max``."""
        level = self._level(latents, velocity, noisy)
        return dance_sde_step(latents, velocity, sigma, next_sigma, noise_level=level)


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
        level = self._level(latents, velocity, noisy)
        return cps_step(latents, velocity, sigma, next_sigma, noise_level=level)


def _working_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest type among the tensors, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _levels(dtype: torch.dtype, sigma: Tensor, *levels: float | Tensor) -> list[Tensor]:
    """Sigma and the levels that go with it as tensors of one type on one device."""
    return [torch.as_tensor(level, dtype=dtype, device=sigma.device) for level in (sigma, *levels)]


def _mean(latents: Tensor, velocity: Tensor, sigma: Tensor, step_size: Tensor, share: Tensor) -> Tensor:
    """Euler step, less a share of the predicted noise."""
    latents, velocity = latents.to(sigma.dtype), velocity.to(sigma.dtype)
    predicted_noise = latents + _over(1 - sigma, latents) * velocity
    return latents - _over(step_size, latents) * velocity - _over(share, latents) * predicted_noise


def _over(values: Tensor, latents: Tensor) -> Tensor:
    """Values of the leading axes, shaped to broadcast over the latents."""
    return values.reshape(*values.shape, *(1,) * (latents.ndim - values.ndim))
