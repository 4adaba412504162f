"""RAM: regression to the reference's velocity, corrected by the advantage."""

from jaxtyping import Float
from torch import Tensor

from realgen.functional.kl import velocity_kl
from realgen.objectives.forward_process import ForwardProcess, drawn
from realgen.types import Minibatch, PolicyScore


class RAM(ForwardProcess):
    """Reinforce adjoint matching (arXiv:2605.10759), mean (v - [v_ref + A (v* - v_old)])^2 with v* the draw's target.

    The reference is part of the regression and cannot be left out, so v stays within |A| |v* - v_old| of it. All noise
    levels weigh alike: the policy's ``draws.error`` is read by statistics only. ``advantage_scale`` is the paper's m.
    The settings are ``ForwardProcess``'s.
    """

    needs_reference = True

    def surrogate(
        self, ratio: Float[Tensor, "rows decisions"], score: PolicyScore, batch: Minibatch
    ) -> Float[Tensor, "rows decisions"]:
        """Return the squared distance from the corrected reference."""
        velocity, draw = drawn(score)
        advantages = batch.advantages.view(-1, *[1] * (velocity.ndim - 1))  # [b, 1, ...]
        wanted = drawn(batch.reference)[0] + advantages * (draw.target - drawn(batch.sampled)[0])
        return velocity_kl(velocity, wanted.detach())
