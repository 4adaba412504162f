"""GRPO of a policy that rewrites prompts."""

from __future__ import annotations

from realgen.modules.diffusion_grpo import DiffusionGRPO
from realgen.policies.rewriting import rewrite_statistics
from realgen.types import Rollout


class PromptGRPO(DiffusionGRPO):
    """``DiffusionGRPO`` that also tells what only rewrites can: ``rewrite/format_rate``, entropy, length and the like.

    A rewrite's reward is the mean over its images (``PromptPolicy.images_per_rewrite``).
    """

    def policy_statistics(self, rollout: Rollout, seconds: dict[str, float]) -> dict[str, float]:
        """What this rank's rewrites are like, beside the speed of the image policy."""
        rewrites = {f"rewrite/{name}": value for name, value in rewrite_statistics(rollout).items()}
        return super().policy_statistics(rollout, seconds) | rewrites
