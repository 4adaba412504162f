"""GRPO of a diffusion policy."""

from __future__ import annotations

from realgen.modules.grpo_module import GRPOModule
from realgen.parallel import world_size
from realgen.types import PromptBatch, Rollout


class DiffusionGRPO(GRPOModule):
    """``GRPOModule`` that also tells what only a diffusion policy can: images per second, transformer evaluations."""

    _evals_before = 0

    def on_train_batch_start(self, batch: PromptBatch, batch_idx: int) -> None:
        """Remember how often the transformer was called so far."""
        self._evals_before = self._transformer_evals

    def policy_statistics(self, rollout: Rollout, seconds: dict[str, float]) -> dict[str, float]:
        """Images per second over all ranks, and the rows that this rank's transformer was called with."""
        evals = self._transformer_evals - self._evals_before
        images_per_second = len(rollout.images) * world_size() / sum(seconds.values())
        return {"images_per_second": images_per_second, "transformer_evals": float(evals)}

    @property
    def _transformer_evals(self) -> int:
        """Of the policy, or of the image policy inside it."""
        return getattr(getattr(self.policy, "image_policy", None) or self.policy, "transformer_evals", 0)
