"""PEPG: the policy gradient on the forward process that stops where the log-ratio has reached the advantage."""

from jaxtyping import Float
from torch import Tensor

from realgen.objectives.forward_process import ForwardProcess
from realgen.types import Minibatch, PolicyScore


class PEPG(ForwardProcess):
    """Regresses the log-ratio to the advantage (*Rethinking the Design Space ...*, ICML 2026: PEPG, and PAR).

    With l minus the weighted error and D = l - l_old, the loss of a draw is -rho (A - D) l, without gradient through
    rho = exp(D) and A - D. PAR's loss, rho (A - D)^2 / 2, has the same gradient. The advantage's scale is the step that
    is allowed: the paper takes 0.1 (R - mean), without a standard deviation. The settings are ``ForwardProcess``'s.
    """

    pulls_back = True

    def surrogate(
        self, ratio: Float[Tensor, "rows decisions"], score: PolicyScore, batch: Minibatch
    ) -> Float[Tensor, "rows decisions"]:
        """Return -rho (A - D) l of each draw."""
        left = batch.advantages.unsqueeze(1) - (score.log_probs - batch.sampled.log_probs)
        return -(ratio * left).detach() * score.log_probs
