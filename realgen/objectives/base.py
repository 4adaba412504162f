"""The contract of an objective: a GRPO variant, that is advantages and a loss."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from realgen.policies.base import Policy
from realgen.types import Minibatch, PolicyScore, RewardOutput


class Objective(ABC):
    """Turns rewards into advantages, and scored decisions into a loss. Knows neither images nor tokens."""

    clip_range: float = math.inf
    """How far a ratio may depart from 1 on the narrower side before it is clipped."""
    maxima: frozenset[str] = frozenset()
    """Names of the statistics of ``loss`` that are maxima. They are joined over microbatches, updates and ranks by
    their maximum, all others by their mean."""

    lagged: frozenset[str] = frozenset()
    """Names of the policy's lagged weights whose scores the loss reads, ``Minibatch.lagged``."""
    pulls_back: bool = False
    """Whether rows without advantage have a gradient even without the reference, so that none may be skipped."""
    uses_groups: bool = False
    """Whether ``loss`` reads ``Minibatch.group_terms``."""

    @property
    def requires(self) -> frozenset[str]:
        """Optional fields of ``PolicyScore`` that the loss reads, under these settings."""
        return frozenset()

    @property
    @abstractmethod
    def needs_reference(self) -> bool:
        """Whether ``loss`` reads ``Minibatch.reference``."""

    @abstractmethod
    def advantages(self, rewards: RewardOutput) -> Float[Tensor, "prompts group"]:
        """Return advantages [P, G] of whole groups, all ranks' prompts; 0 for samples that could not be scored."""

    @abstractmethod
    def loss(self, score: PolicyScore, batch: Minibatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the loss (a mean over rows and decisions) and detached statistics to log.

        Args:
            score: Of the current policy, with gradient; it has the fields that ``requires`` names.
            batch: The same rows as they were sampled, their advantages, and the reference if it is needed.
        """

    def group_terms(self, batch: Minibatch, group_size: int) -> Float[Tensor, "rows decisions"]:
        """Return what the loss needs of whole groups, by default zeros; called once an iteration with ``uses_groups``.

        Args:
            batch: All rows of this rank, prompt-major; ``sampled`` is the score of the weights that sampled.
            group_size: G.
        """
        return torch.zeros_like(batch.sampled.log_probs)

    def row_weights(self, mask: Bool[Tensor, "rows decisions"]) -> Float[Tensor, " rows"]:
        """Return how much each row weighs in the mean that ``loss`` is; microbatches are joined by it.

        >= 0, in any unit; by default the number of decisions that count, where the mask is True.
        """
        return mask.sum(1).double()

    def check_policy(self, policy: Policy) -> None:
        """Raise ValueError if the policy lacks what the loss reads; works before the policy's ``load``."""
        name, policy = type(self).__name__, policy.decider
        if missing := ", ".join(sorted(self.requires - policy.score_fields)):
            given = ", ".join(["log_probs", *sorted(policy.score_fields)])
            tokens = policy.score_fields <= {"engine_log_probs"}
            cure = "; for tokens take realgen.objectives.GRPO with kl k2 or k3, or GSPO" if tokens else ""
            own = f"{type(policy).__name__} gives only {given}{cure}"
            raise ValueError(f"objective {name} needs {missing} from the policy's score (Policy.score_fields); {own}.")
        read = self.lagged | ({policy.sampler} if policy.sampler else set())
        if read != policy.lagged.keys():
            raise ValueError(
                f"policy.draws.lagged must name the weights that sampler and objective {name} use, {sorted(read)}, got "
                f"{sorted(policy.lagged)}."
            )
        if self.needs_reference and not policy.has_reference:
            raise ValueError(
                f"objective {name} has a KL penalty (kl_coef), and policy {type(policy).__name__} has no reference: "
                "set lora, or keep_reference=true for full fine-tuning, or kl_coef=0."
            )
