"""DanceGRPO's SDE; see ``flow_sde`` for what it has in common with the other transitions."""

from __future__ import annotations

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


def dance_sde_step(latents: Latents, velocity: Latents, sigma: Sigma, next_sigma: Sigma, *, noise_level: Level) -> Step:
    """Take one step of DanceGRPO's SDE, with constant diffusion (arXiv:2505.07818).

    The score follows from the velocity: given x0 the state is N((1 - sigma) x0, sigma^2), so the score is
    -(x - (1 - sigma) E[x0 | x]) / sigma^2; with E[x0 | x] = x - sigma v it is -(x + (1 - sigma) v) / sigma. The step is
    x + v dt - a^2 score dt / 2.

    ``noise_level`` a >= 0 is the paper's eta; the other arguments and the result are as in ``flow_sde_step``.

    Example:
        >>> import torch
        >>> x, v = torch.ones(1, 4), torch.full((1, 4), 2.0)
        >>> sigma, next_sigma = torch.tensor([0.5]), torch.tensor([0.25])
        >>> dance_sde_step(x, v, sigma, next_sigma, noise_level=1.0)  # 1 - 2/4 - (1/4) * 2, sqrt(1/4)
        (tensor([[0., 0., 0., 0.]]), tensor([0.5000]))
    """
    dtype = working_dtype(latents, velocity)
    sigma, next_sigma, noise_level = as_levels(dtype, sigma, next_sigma, noise_level)
    step_size = sigma - next_sigma
    share = noise_level**2 * step_size / (2 * sigma)
    return step_mean(latents, velocity, sigma, step_size, share), noise_level * step_size.sqrt()


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
        level = self.level(latents, velocity, noisy)
        return dance_sde_step(latents, velocity, sigma, next_sigma, noise_level=level)
