"""Policy gradients on the forward process: GRPO whose decisions are draws of noise on the finished images."""

import math
from dataclasses import replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least
from realgen.functional.kl import velocity_kl
from realgen.functional.matching import matching_error
from realgen.objectives.grpo import GRPO
from realgen.types import Draw, Minibatch, PolicyScore, RewardOutput


class ForwardProcess(GRPO):
    """GRPO over draws on finished images, whose log-probability is minus the weighted flow-matching error.

    With its defaults, which clip nothing, it is the plain policy gradient on that bound (EPG, *Rethinking the Design
    Space of Reinforcement Learning for Diffusion Models*, ICML 2026); with ``average_coef`` and the policy's
    ``draws.error`` at ``huber`` it is AWM (arXiv:2509.25050). On-policy its gradient is that of the advantage-weighted
    error, and so are those of ``PEPG``, ``DiffusionNFT``, ``DGPO``, ``RAM`` and ``CRD``. The loss of this family is no
    sign of progress: look at rewards and held-out metrics. ValueError if a number is out of its range.

    Args:
        clip_low: As in GRPO; 1 never clips.
        clip_high: As in GRPO; ``.inf`` never clips.
        advantage_scale: Multiplies the clipped advantages, > 0.
        average_coef: Weight of the mean squared difference of velocities from the policy's lagged weights ``ema``,
            >= 0; 0 needs no such weights.
        kl: ``velocity``, the mean squared difference from the reference's.
        **settings: Of ``GRPO``.
    """

    def __init__(
        self,
        clip_low: float = 1.0,
        clip_high: float = math.inf,
        *,
        advantage_scale: float = 1.0,
        average_coef: float = 0.0,
        kl: Literal["velocity"] = "velocity",
        **settings: Any,
    ) -> None:
        super().__init__(clip_low=clip_low, clip_high=clip_high, kl=kl, **settings)
        check_at_least(0, average_coef=average_coef)
        if not advantage_scale > 0:
            raise ValueError(f"advantage_scale must be above 0, got {advantage_scale}.")
        self.advantage_scale = advantage_scale
        self.average_coef = average_coef
        if average_coef:
            self.lagged, self.pulls_back = frozenset({"ema"}), True

    @property
    def requires(self) -> frozenset[str]:
        """The draws and the velocities at them."""
        return super().requires | {"draw", "velocity"}

    def advantages(self, rewards: RewardOutput) -> Float[Tensor, "prompts group"]:
        """Return GRPO's advantages times ``advantage_scale``."""
        return self.advantage_scale * super().advantages(rewards)

    def loss(self, score: PolicyScore, batch: Minibatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return GRPO's loss, plus ``average_coef`` times the distance from the average, logged as ``average``."""
        loss, stats = super().loss(score, batch)
        if self.average_coef:
            distance = self.mean(velocity_kl(drawn(score)[0], drawn(batch.lagged["ema"])[0]), batch.mask)
            loss = loss + self.average_coef * distance
            stats["average"] = distance.detach()
        return loss, stats


def drawn(score: PolicyScore | None) -> tuple[Float[Tensor, "rows decisions *latent"], Draw]:
    """Return velocity and draws of a score that is known to have them: ``check_policy`` has refused all others."""
    assert score is not None
    assert score.velocity is not None
    assert score.draw is not None
    return score.velocity, score.draw


def uniform_error(score: PolicyScore | None) -> Float[Tensor, "rows decisions"]:
    """Return the mean squared error of a score's velocity at each draw, all noise levels alike."""
    velocity, draw = drawn(score)
    return matching_error(velocity, replace(draw, error="uniform"))
