"""The shared part of policies that pair a rewriter of prompts with an image policy."""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

from jaxtyping import Float
from torch import Tensor

from realgen.policies.base import Policy, Progress
from realgen.types import PolicyScore, Rewrite, Rollout


class RewritingPair(Policy):
    """Rewrites prompts and draws the rewrites; as a policy it is one of the two, its ``decider``."""

    image_policy: Policy

    @property
    @abstractmethod
    def decider(self) -> Policy:
        """Return the policy whose decisions a rollout holds."""

    @abstractmethod
    def rewrite(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> list[Rewrite]:
        """Rewrite each prompt once, the way the pair is deployed."""

    def check_group_size(self, group_size: int) -> None:
        """Raise ValueError where the decider does."""
        self.decider.check_group_size(group_size)

    def end_iteration(self, iteration: int) -> None:
        """Let the image policy's lagged weights follow."""
        self.image_policy.end_iteration(iteration)

    def check_trainable(self, key: str) -> None:
        """Raise ValueError if the image policy has no decision that could be trained."""
        self.image_policy.check_trainable(f"{key}.image_policy")

    @property
    def has_reference(self) -> bool:
        """Whether the decider has one."""
        return self.decider.has_reference

    @property
    def transformer_evals(self) -> int:
        """Those of the image policy."""
        return self.image_policy.transformer_evals

    def statistics(self, rollout: Rollout) -> dict[str, float]:
        """Return the decider's statistics."""
        return self.decider.statistics(rollout)

    def score(self, rollout: Rollout, rows: Tensor) -> PolicyScore:
        """Score the decider's decisions."""
        return self.decider.score(rollout, rows)

    def reference(self) -> AbstractContextManager[None]:
        """Inside this context the decider is its frozen start."""
        return self.decider.reference()

    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> Float[Tensor, "rows 3 height width"]:
        """Rewrite each prompt and draw the rewrite, both from the row's seed."""
        return self.sample_rewritten(prompts, seeds, progress=progress)[0]

    def sample_rewritten(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> tuple[Float[Tensor, "rows 3 height width"], list[Rewrite]]:
        """Return ``sample``, and the rewrites."""
        rewrites = self.rewrite(prompts, seeds, progress=progress)
        return self.image_policy.sample([rewrite.text for rewrite in rewrites], seeds, progress=progress), rewrites
