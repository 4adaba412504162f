"""Coefficients-preserving sampling; see ``flow_sde`` for what it has in common with the other transitions."""

import math

from torch import Tensor

from realgen.functional.flow_sde import Transition


class CPS(Transition):
    """Coefficients-preserving sampling (Flow-CPS, arXiv:2509.05952): clean images after few steps.

    A part of the predicted noise makes room for fresh noise, so that the variances add up to sigma'^2:
    mean = (1 - sigma') x0_hat + sqrt(sigma'^2 - std^2) n_hat, which is the form at the top of ``flow_sde``. No noise is
    left over at the end, unlike with the first-order SDE steps. It is not a discretised SDE: std does not shrink with
    the step size. The step to sigma' = 0 has std = 0 and so no log-probability.

    The published code scores a step by -mean((x' - mean)^2), without std; here ``gaussian_log_prob`` scores it as the
    Gaussian it is. It draws other images than ``FlowSDE`` does: an approximate option, to be compared by what it
    learns.

    Args:
        noise_level: a in [0, 1], from none of the noise fresh to all of it.
    """

    def __init__(self, noise_level: float = 0.7) -> None:
        super().__init__(noise_level)
        if noise_level > 1:
            raise ValueError(f"noise_level of CPS must be 0 to 1, got {noise_level}.")

    def exchange(self, sigma: Tensor, next_sigma: Tensor, level: Tensor, sigma_max: Tensor) -> tuple[Tensor, Tensor]:
        """Return the std and share of CPS, which need neither ``sigma`` nor ``sigma_max``."""
        std = next_sigma * (level * (math.pi / 2)).sin()
        return std, 2 * next_sigma * (level * (math.pi / 4)).sin() ** 2
