"""CRD: regresses how much likelier a sample has become to its advantage, each against its group's mean."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from realgen.objectives.forward_process import ForwardProcess
from realgen.types import Minibatch, PolicyScore


class CRD(ForwardProcess):
    """Centred reward distillation (arXiv:2603.14128).

    With r = l - l_old, l minus the weighted error and l_old that of the policy's lagged weights ``old``, and a = clip(A
    / 10 + 1/2, 0, 1), the loss of a draw is 5 / beta (beta (r - mean r) - (a - mean a))^2, means over the group. The KL
    penalty grows with the advantage: kl_coef (m + a (1 - m)) |v - v_ref|^2. Departures: mean r is that of the weights
    that sampled, taken once an iteration; the published penalty is against a reference with guidance 4.5. ValueError if
    a number is out of its range.

    Args:
        beta: How much of the advantage one unit of r stands for, > 0.
        least_penalty: m, the share of the KL penalty that the worst sample has, 0 to 1.
        **settings: Of ``ForwardProcess``; published with ``kl_coef`` 0.1.
    """

    uses_groups = pulls_back = True

    def __init__(self, *, beta: float = 1.0, least_penalty: float = 0.1, **settings: Any) -> None:
        super().__init__(**settings)
        if not beta > 0:
            raise ValueError(f"beta must be above 0, got {beta}.")
        if not 0 <= least_penalty <= 1:
            raise ValueError(f"least_penalty must be 0 to 1, got {least_penalty}.")
        self.beta, self.least_penalty = beta, least_penalty
        self.lagged |= {"old"}

    def group_terms(self, batch: Minibatch, group_size: int) -> Float[Tensor, "rows decisions"]:
        """Return beta mean r - mean a of each row's group at each draw."""
        grouped = self._left(batch.sampled, batch).unflatten(0, (-1, group_size))  # [P, G, S]
        return grouped.mean(1, keepdim=True).expand_as(grouped).flatten(0, 1)

    def surrogate(
        self, ratio: Float[Tensor, "rows decisions"], score: PolicyScore, batch: Minibatch
    ) -> Float[Tensor, "rows decisions"]:
        """Return the squared distance of the centred implied reward from the centred advantage."""
        assert batch.group_terms is not None
        return 5 / self.beta * (self._left(score, batch) - batch.group_terms).square()

    def penalty(self, score: PolicyScore, batch: Minibatch) -> Float[Tensor, "rows decisions"]:
        """Return the KL penalty, larger for better samples."""
        return (self.least_penalty + _wanted(batch) * (1 - self.least_penalty)) * super().penalty(score, batch)

    def _left(self, score: PolicyScore, batch: Minibatch) -> Tensor:
        """Return beta r - a."""
        return self.beta * (score.log_probs - batch.lagged["old"].log_probs) - _wanted(batch)


def _wanted(batch: Minibatch) -> Float[Tensor, "rows 1"]:
    """Return the advantages, mapped to 0 to 1."""
    return (batch.advantages / 10 + 0.5).clamp(0, 1).unsqueeze(1)
