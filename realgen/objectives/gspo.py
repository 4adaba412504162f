"""GSPO: GRPO whose ratio and clip are of whole completions."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from realgen.functional.sequence_loss import sequence_ratio
from realgen.objectives.grpo import GRPO, KL
from realgen.types import Minibatch, PolicyScore


class GSPO(GRPO):
    """Group sequence policy optimisation (arXiv:2507.18071, equations 5 to 7), meant for tokens.

    J = 1/G sum_i min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i) with s_i the geometric mean of the ratios of
    completion i's tokens. A completion is clipped or kept as a whole, and a token's gradient is the completion's
    divided by its length. A KL penalty is still a mean over the tokens of each completion. ValueError if a number is
    out of its range, or a name is unknown.

    Args:
        clip_low: How far the ratio may fall below 1 before a bad sample is left alone, 0 to 1. A mean over tokens
            stays near 1, so the paper clips at 3e-4 and 4e-4.
        clip_high: How far the ratio may rise above 1 before a good sample is left alone, >= 0.
        kl: What ``kl_coef`` multiplies, as in ``GRPO``.
        **settings: Of ``GRPO``.
    """

    def __init__(self, clip_low: float = 3e-4, clip_high: float = 4e-4, *, kl: KL = "k3", **settings: Any) -> None:
        super().__init__(clip_low, clip_high, kl=kl, average="samples", most_decisions=None, **settings)

    def ratio(self, score: PolicyScore, batch: Minibatch) -> Float[Tensor, "rows decisions"]:
        """Return the ratio of each decision's sample."""
        return sequence_ratio(score.log_probs, batch.sampled.log_probs, batch.mask)
