"""Velocities outside the window that are reused for several steps."""

from realgen.policies.solvers.base import Solver


class CachedVelocity(Solver):
    """Approximate: outside the window the transformer is called at every k-th step only.

    Between two calls a row moves on with its last velocity, which may be that of its window's last step. One velocity
    over k steps of the schedule is one Euler step of k times the size, with its error; unlike fewer steps, it leaves
    the window's steps as fine as they are. It is the plainest form of the caches of diffusion transformers (FORA,
    arXiv:2407.01425, keeps the answers of attention and feed-forward layers in the same way).

    Args:
        every: k, at least 2. Steps 0, k, 2k ... are evaluated for all rows, the others only inside the window.
    """

    def __init__(self, every: int = 2) -> None:
        if every < 2:
            raise ValueError(f"every must be at least 2, got {every}; solver=null evaluates every step.")
        self.every = every
