"""DanceGRPO's SDE; see ``flow_sde`` for what it has in common with the other transitions."""

from torch import Tensor

from realgen.functional.flow_sde import Transition


class DanceSDE(Transition):
    """DanceGRPO's SDE (arXiv:2505.07818): the same noise at all sigmas.

    The score follows from the velocity: given x0 the state is N((1 - sigma) x0, sigma^2), so the score is
    -(x - (1 - sigma) E[x0 | x]) / sigma^2; with E[x0 | x] = x - sigma v it is -(x + (1 - sigma) v) / sigma. The step is
    x + v dt - a^2 score dt / 2.

    Its steps draw other images than those of ``FlowSDE``: an approximate option, to be compared by what it learns.

    Args:
        noise_level: a >= 0, the paper's eta.
    """

    def __init__(self, noise_level: float = 0.3) -> None:
        super().__init__(noise_level)

    def exchange(self, sigma: Tensor, next_sigma: Tensor, level: Tensor, sigma_max: Tensor) -> tuple[Tensor, Tensor]:
        """Return Dance-SDE's std and share, which do not need ``sigma_max``."""
        step_size = sigma - next_sigma
        return level * step_size.sqrt(), level**2 * step_size / (2 * sigma)
