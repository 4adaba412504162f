"""A Gaussian toy policy, small enough to differentiate by hand."""

from collections.abc import Callable

import pytest
import torch

from realgen.functional.flow_sde import gaussian_log_prob
from realgen.types import Draw, Gaussian, Minibatch, PolicyScore

ROWS, DECISIONS, LATENT = 4, 3, (2, 2, 2)


class Toy:
    """Takes steps N(mean, std^2); its velocity is twice its mean, and a draw's target twice what it drew. In float64.

    ``old_mean`` is where it sampled, ``ref_mean`` its reference, ``sample`` what it drew.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (ROWS, DECISIONS, *LATENT)
        self.old_mean, self.ref_mean, self.noise, self.shift = (
            torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4)
        )
        self.std = torch.tensor([0.5, 0.8, 1.1], dtype=torch.float64).expand(ROWS, DECISIONS)
        self.sigma = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64).expand(ROWS, DECISIONS)
        self.step_size = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64).expand(ROWS, DECISIONS)
        self.sample = self.old_mean + self.std[..., None, None, None] * self.noise

    def score(self, mean: torch.Tensor) -> PolicyScore:
        """What a policy with these means says of the samples."""
        return PolicyScore(
            log_probs=gaussian_log_prob(self.sample, mean, self.std),
            gaussian=Gaussian(mean, self.std, self.step_size, self.sample, mean_std=self.std.mean(1)),
            velocity=2 * mean,
            draw=Draw(2 * self.sample, self.sigma, "adaptive"),
        )

    def batch(self, advantages: list[float], mask: torch.Tensor | None = None) -> Minibatch:
        """The rows as they were sampled."""
        return Minibatch(
            advantages=torch.tensor(advantages, dtype=torch.float64),
            sampled=self.score(self.old_mean),
            mask=torch.ones(ROWS, DECISIONS, dtype=torch.bool) if mask is None else mask,
            reference=self.score(self.ref_mean),
            lagged={"old": self.score(self.old_mean), "ema": self.score(self.ref_mean)},
        )

    def moved(self, by: float = 0.0) -> torch.Tensor:
        """Means moved from where they sampled, ready for a gradient."""
        return (self.old_mean + by * self.shift).requires_grad_()


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def gradient() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Gradient of a loss with respect to the means."""

    def of(loss: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        (grad,) = torch.autograd.grad(loss, mean)
        return grad

    return of
