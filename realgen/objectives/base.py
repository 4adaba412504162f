"""The contract of an objective: a GRPO variant, that is advantages and a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields

from jaxtyping import Bool, Float
from torch import Tensor

from realgen.types import Minibatch, PolicyScore, RewardOutput


class Objective(ABC):
    """Turns rewards into advantages, and scored decisions into a loss. Knows neither images nor tokens."""

    @property
    def requires(self) -> frozenset[str]:
        """Optional fields of ``PolicyScore`` that the loss reads, under these settings."""
        return frozenset()

    @property
    def global_std(self) -> bool:
        """Whether ``advantages`` divides by the standard deviation over all prompts of all ranks, given as ``std``."""
        return False

    @property
    @abstractmethod
    def needs_reference(self) -> bool:
        """Whether ``loss`` reads ``Minibatch.reference``."""

    @abstractmethod
    def advantages(
        self, rewards: RewardOutput, *, std: Mapping[str, Float[Tensor, ""]] | None = None
    ) -> Float[Tensor, "prompts group"]:
        """Advantages [P, G]; 0 for samples that could not be judged.

        Args:
            rewards: Rewards of whole groups.
            std: Standard deviation of each part over all ranks; given when ``global_std`` is set.
        """

    @abstractmethod
    def loss(self, score: PolicyScore, batch: Minibatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Loss (a mean over rows and decisions) and detached statistics to log."""

    def row_weights(self, mask: Bool[Tensor, "rows decisions"]) -> Float[Tensor, " rows"]:
        """How much each row weighs in the mean that ``loss`` is; from it, parts of a batch are put together again.

        Args:
            mask: True where a decision counts.

        Returns:
            >= 0, in any unit; by default the number of decisions.
        """
        return mask.sum(1).double()

    def check(self, score: PolicyScore) -> None:
        """Refuse a policy that does not give what the loss reads.

        Raises:
            ValueError: Naming the objective, the missing part and what the policy gives.
        """
        missing = sorted(part for part in self.requires if getattr(score, part) is None)
        if missing:
            given = [part.name for part in fields(score) if getattr(score, part.name) is not None]
            raise ValueError(
                f"objective {type(self).__name__} needs {', '.join(missing)} from the policy's score; this policy "
                f"gives only {', '.join(given)}."
            )
