"""TempFlow-GRPO: GRPO that weighs each denoising step by how much noise it explores with."""

from jaxtyping import Float
from torch import Tensor

from realgen.objectives.grpo import GRPO
from realgen.types import PolicyScore


class TempFlowGRPO(GRPO):
    """GRPO with losses weighted by the step's standard deviation over its mean of all steps (arXiv:2508.04324).

    Early, noisy steps decide more, so they weigh more; the weights of all steps of a schedule average 1, whichever of
    them a window trains. The paper's branching, one stochastic step from a latent that the group shares, is a window
    of size 1 with ``samples_per_noise``. Without effect with Dance-SDE on equal steps, whose deviations are equal. For
    diffusion policies only; the settings are GRPO's.
    """

    @property
    def requires(self) -> frozenset[str]:
        """The steps' Gaussians, and what the KL penalty reads."""
        return super().requires | {"gaussian"}

    def decision_weight(self, sampled: PolicyScore) -> Float[Tensor, "rows decisions"]:
        """Return the standard deviation of each decision over the schedule's mean."""
        gaussian = sampled.gaussian
        assert gaussian is not None  # `check_policy` has refused policies without it
        if gaussian.mean_std is None:
            raise ValueError("TempFlowGRPO needs Gaussian.mean_std from the policy, got None.")
        return gaussian.std / gaussian.mean_std[:, None]
