"""An image policy that is told rewrites: the second stage, after a language model has learned to rewrite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.policies.base import Policy, Progress
from realgen.policies.prompt_policy import PromptPolicy
from realgen.types import PolicyScore, Rewrite, Rollout


class RewrittenPolicy(Policy):
    """Trains an image policy on what a frozen ``PromptPolicy`` makes of the prompts.

    All samples of a group are told the same text, so that an image is better than its group by how it is drawn, not by
    what it was told. A share of the prompts of each iteration is left as it is, or the image policy would forget what
    users write. ``sample`` rewrites every prompt, as the pair is deployed.

    Args:
        image_policy: What is trained.
        rewriter: Rewrites the prompts, never trained here; its own ``image_policy`` must be null.
        raw_share: Share of an iteration's prompts that is not rewritten, 0 to 1; where it makes no whole number, chance
            rounds it.

    Raises:
        ValueError: If ``raw_share`` is out of its range, or the rewriter has settings that would do nothing here.
    """

    def __init__(self, image_policy: Policy, *, rewriter: PromptPolicy, raw_share: float = 0.25) -> None:
        super().__init__()
        if not 0 <= raw_share <= 1:
            raise ValueError(f"raw_share must be 0 to 1, got {raw_share}.")
        if rewriter.image_policy is not None:
            raise ValueError("rewriter.image_policy must be null: image_policy draws.")
        if (raw := rewriter.raw_per_group) != 0:
            raise ValueError(f"rewriter.raw_per_group must be 0, got {raw}: here raw_share leaves prompts as they are.")
        if (images := rewriter.images_per_rewrite) != 1:
            raise ValueError(f"rewriter.images_per_rewrite must be 1, got {images}: here group_size images are drawn.")
        self.image_policy = image_policy
        self._rewriter = (rewriter,)  # a tuple hides what is frozen from state_dict, optimizers and shards
        self.raw_share = raw_share

    @property
    def rewriter(self) -> PromptPolicy:
        """What rewrites."""
        return self._rewriter[0]

    @property
    def backbone(self) -> Any:
        """The image policy's base model."""
        return getattr(self.image_policy, "backbone", None)

    def load(self) -> None:
        """Read both; a second call does nothing."""
        self.image_policy.load()
        self.rewriter.load()
        self.rewriter.requires_grad_(False)

    def check_objective(self, name: str, fields: frozenset[str], *, reference: bool) -> None:
        """Raise ValueError where the image policy does."""
        self.image_policy.check_objective(name, fields, reference=reference)

    @property
    def transformer_evals(self) -> int:
        """Those of the image policy."""
        return self.image_policy.transformer_evals

    def check_trainable(self, key: str) -> None:
        """Raise ValueError if the image policy has no decision that could be trained."""
        self.image_policy.check_trainable(f"{key}.image_policy")

    def check_group_size(self, group_size: int) -> None:
        """Raise ValueError where the image policy does."""
        self.image_policy.check_group_size(group_size)

    def rollout_chunks(
        self,
        prompts: Sequence[str],
        group_size: int,
        *,
        generator: torch.Generator,
        iteration: int = 0,
        progress: Progress | None = None,
    ) -> Iterator[Rollout]:
        """Rewrite all prompts, then sample the image policy's chunks.

        The generator gives, in this order: which prompts stay as they are, one seed for each rewrite, and what the
        image policy draws.

        Yields:
            Rollouts of some of the prompts, with the rewrites that the image policy was given.
        """
        rewrites = self._rewrite(prompts, generator)
        texts = [rewrite.text for rewrite in rewrites]
        how: dict[str, Any] = {"generator": generator, "iteration": iteration, "progress": progress}
        start = 0
        for chunk in self.image_policy.rollout_chunks(texts, group_size, **how):
            part = slice(start, start + len(chunk.prompts))
            yield _with_rewrites(chunk, prompts[part], rewrites[part])
            start = part.stop

    def score(self, rollout: Rollout, rows: Tensor) -> PolicyScore:
        """Score the image policy's decisions under the texts that it was told."""
        return self.image_policy.score(replace(rollout, prompts=tuple(rollout.row_texts[:: rollout.group_size])), rows)

    def reference(self) -> AbstractContextManager[None]:
        """Inside this context the image policy is its frozen start."""
        return self.image_policy.reference()

    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> Float[Tensor, "rows 3 height width"]:
        """Rewrite each prompt and draw what was written, both from the row's seed."""
        return self.sample_rewritten(prompts, seeds, progress=progress)[0]

    def sample_rewritten(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> tuple[Float[Tensor, "rows 3 height width"], list[Rewrite]]:
        """Return ``sample``, and the rewrites."""
        rewrites = self.rewriter.to(self.device).rewrite(prompts, seeds)
        return self.image_policy.sample([rewrite.text for rewrite in rewrites], seeds, progress=progress), rewrites

    def export(self, directory: Path) -> Path:
        """Write the image policy's trained weights; the rewriter's stay where they came from."""
        return self.image_policy.export(directory)

    def _rewrite(self, prompts: Sequence[str], generator: torch.Generator) -> list[Rewrite]:
        """One rewrite for each prompt; the prompt itself for those that stay as they are."""
        how: dict[str, Any] = {"generator": generator, "device": generator.device}
        order = torch.randperm(len(prompts), **how).tolist()
        left = int(self.raw_share * len(prompts) + float(torch.rand((), dtype=torch.float64, **how)))
        seeds = torch.randint(2**32, (len(prompts),), **how).tolist()
        rewrites = [Rewrite(prompt, "", formatted=False, truncated=False, skipped=True) for prompt in prompts]
        asked = sorted(order[left:])
        if asked:
            self.rewriter.to(self.device)
            written = self.rewriter.rewrite([prompts[p] for p in asked], [seeds[p] for p in asked])
            for prompt, rewrite in zip(asked, written, strict=True):
                rewrites[prompt] = rewrite
        return rewrites


def _with_rewrites(rollout: Rollout, prompts: Sequence[str], texts: Sequence[Rewrite]) -> Rollout:
    """A rollout of texts as one of the prompts that they were made from."""
    rewrites = tuple(text for text in texts for _ in range(rollout.group_size))
    return replace(rollout, prompts=tuple(prompts), rewrites=rewrites)
