"""Flow-DPPO: a trust region on each step's Gaussian in place of a clip of its ratio."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from realgen.functional.kl import gaussian_kl
from realgen.functional.policy_loss import masked_mean
from realgen.objectives.grpo import GRPO
from realgen.types import Minibatch, PolicyScore


class FlowDPPO(GRPO):
    """GRPO that leaves a step alone once its Gaussian has moved far enough in the wanted direction (arXiv:2606.11025).

    With D = mean (mu - mu_old)^2 / (2 std^2), the exact divergence per element from the step that was sampled, the loss
    is -r A where D <= ``trust_region`` or where the step has moved against its advantage, A (r - 1) <= 0, and has no
    gradient elsewhere. The ratio's own noise does not enter D, and all steps are held alike. For every transition.
    ValueError if the trust region is not above 0.

    Args:
        trust_region: Largest D, > 0; ``.inf`` for none. Published: 1e-7 for Flow-SDE, 1e-6 for CPS, latents of 65,536
            elements and more.
        **settings: Of ``GRPO``, without clips.
    """

    def __init__(self, *, trust_region: float = 1e-7, **settings: Any) -> None:
        super().__init__(clip_low=1.0, clip_high=math.inf, **settings)
        if not trust_region > 0:
            raise ValueError(f"trust_region must be above 0 (.inf for none), got {trust_region}.")
        self.trust_region = trust_region

    @property
    def requires(self) -> frozenset[str]:
        """The steps' Gaussians, and what the KL penalty reads."""
        return super().requires | {"gaussian"}

    def loss(self, score: PolicyScore, batch: Minibatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return GRPO's loss; ``clip_fraction`` is of the decisions left alone, ``divergence`` the mean D."""
        loss, stats = super().loss(score, batch)
        stats["clip_fraction"] = masked_mean(self._left_alone(score, batch).to(loss.dtype), batch.mask)
        stats["divergence"] = masked_mean(_divergence(score, batch), batch.mask)
        return loss, stats

    def surrogate(
        self, ratio: Float[Tensor, "rows decisions"], score: PolicyScore, batch: Minibatch
    ) -> Float[Tensor, "rows decisions"]:
        """Return -r A, without gradient for decisions that are left alone."""
        ratio = torch.where(self._left_alone(score, batch), ratio.detach(), ratio)
        return -batch.advantages.unsqueeze(1) * ratio

    def _left_alone(self, score: PolicyScore, batch: Minibatch) -> Bool[Tensor, "rows decisions"]:
        gained = (score.log_probs - batch.sampled.log_probs).detach()
        return (batch.advantages.unsqueeze(1) * gained > 0) & (_divergence(score, batch) > self.trust_region)


def _divergence(score: PolicyScore, batch: Minibatch) -> Float[Tensor, "rows decisions"]:
    new, old = score.gaussian, batch.sampled.gaussian
    assert new is not None  # `check_policy` has refused policies without them
    assert old is not None
    return gaussian_kl(new.mean.detach(), old.mean, old.std)
