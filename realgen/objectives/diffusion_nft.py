"""DiffusionNFT: contrasts an implied better and an implied worse policy by regression."""

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor

from realgen.functional.matching import matching_error
from realgen.objectives.forward_process import ForwardProcess, drawn
from realgen.types import Minibatch, PolicyScore


class DiffusionNFT(ForwardProcess):
    """Negative-aware fine-tuning (arXiv:2509.16117).

    With v_old of the weights that sampled, v+ = beta v + (1 - beta) v_old, v- = (1 + beta) v_old - beta v, c the
    ``advantage_clip`` and r = A / (2 c) + 1/2 in [0, 1], the loss of a draw is c (r e(v+) + (1 - r) e(v-)) / beta,
    where e is the policy's weighted error, each branch with its own weight. While the policy is the one that sampled,
    the loss does not depend on rewards at all; its gradient does. ValueError if beta is not above 0, or the advantages
    have no largest size.

    Args:
        beta: How far the implied policies are from the current one, > 0; not the weight of the KL penalty.
        **settings: Of ``ForwardProcess``; ``advantage_clip`` is finite, published as 5.
    """

    pulls_back = True

    def __init__(self, *, beta: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        if not beta > 0:
            raise ValueError(f"beta must be above 0, got {beta}.")
        if self.advantage_clip == math.inf:
            raise ValueError("advantage_clip must be finite, as it maps advantages to [0, 1], got inf.")
        self.beta = beta

    def surrogate(
        self, ratio: Float[Tensor, "rows decisions"], score: PolicyScore, batch: Minibatch
    ) -> Float[Tensor, "rows decisions"]:
        """Return the contrast of each draw."""
        (new, draw), old = drawn(score), drawn(batch.sampled)[0]
        most = self.advantage_clip * self.advantage_scale
        good = (batch.advantages / (2 * most) + 0.5).clamp(0, 1).unsqueeze(1)
        better = matching_error(self.beta * new + (1 - self.beta) * old, draw)
        worse = matching_error((1 + self.beta) * old - self.beta * new, draw)
        return most * (good * better + (1 - good) * worse) / self.beta
