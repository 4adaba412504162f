"""GRPO-Guard: GRPO whose clip acts on both sides and on all denoising steps alike."""

from jaxtyping import Float
from torch import Tensor

from realgen.functional.policy_loss import ratio_norm
from realgen.objectives.grpo import GRPO
from realgen.types import Minibatch, PolicyScore


class GRPOGuard(GRPO):
    """GRPO with normalised ratios and losses weighted by 1 / step size (GRPO-Guard, arXiv:2510.22319).

    Plain ratios of a Gaussian step lie below 1 on average and spread differently at each step, so that the clip holds
    back bad samples more than good ones, and some steps more than others. RatioNorm mends both; the weight
    1 / (sigma - sigma') makes up for the step size in each step's gradient. For diffusion policies only.

    The settings are GRPO's, but mind two scales. A ratio departs from 1 by about rms(mean - old_mean) over the root of
    the latent's size, so a smaller latent wants a wider clip (RealGen: 2e-6 to 4e-6 for FLUX, 1e-4 for Z-Image). And
    the policy loss is multiplied by about ``num_steps``, so the same ``kl_coef`` weighs less than in GRPO.
    """

    @property
    def requires(self) -> frozenset[str]:
        """The steps' Gaussians, and what the KL penalty reads."""
        return super().requires | {"gaussian"}

    def ratio(self, score: PolicyScore, batch: Minibatch) -> Float[Tensor, "rows decisions"]:
        """Return the ratio of each decision, normalised by RatioNorm."""
        new, old = score.gaussian, batch.sampled.gaussian
        assert new is not None  # `check_policy` has refused policies without them
        assert old is not None
        return ratio_norm(old.sample, new.mean, old.mean, old.std)

    def decision_weight(self, sampled: PolicyScore) -> Float[Tensor, "rows decisions"]:
        """Return the inverse step size of each decision."""
        assert sampled.gaussian is not None
        return 1 / sampled.gaussian.step_size
