"""An image policy that draws rewrites: the second stage, after a language model was trained to rewrite."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realgen.policies.base import Policy, Progress
from realgen.policies.prompt_policy import PromptPolicy
from realgen.policies.rewriting_pair import RewritingPair
from realgen.types import PolicyScore, Rewrite, Rollout


class RewrittenPolicy(RewritingPair):
    """Trains an image policy on the rewrites that a frozen ``PromptPolicy`` makes of the prompts.

    All samples of a group have the same text, so that an image is better than its group by how it is drawn, not by its
    text. A share of the prompts of each iteration is not rewritten, or the image policy would forget what users write.
    ``sample`` rewrites every prompt, as the pair is deployed. ValueError if ``raw_share`` is out of its range, or the
    rewriter has settings that have no effect here.

    Args:
        image_policy: Trained.
        rewriter: Rewrites the prompts, never trained here; its own ``image_policy`` must be null.
        raw_share: Share of an iteration's prompts that is not rewritten, 0 to 1; a fractional number of prompts is
            rounded at random.
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
        """Return the frozen language model."""
        return self._rewriter[0]

    @property
    def backbone(self) -> Any:
        """Return the image policy's base model."""
        return getattr(self.image_policy, "backbone", None)

    @property
    def decider(self) -> Policy:
        """Return the image policy."""
        return self.image_policy

    def load(self) -> None:
        """Read both; a second call does nothing."""
        self.image_policy.load()
        self.rewriter.load()
        self.rewriter.requires_grad_(False)

    def rollout_chunks(
        self, prompts: Sequence[str], group_size: int, *, generator: torch.Generator, **how: Any
    ) -> Iterator[Rollout]:
        """Rewrite all prompts, then sample the image policy's chunks; they hold the rewrites that were drawn.

        The generator is used, in this order, for which prompts are not rewritten, for one seed per rewrite, and by the
        image policy.
        """
        rewrites = self._some_rewritten(prompts, generator)
        texts, start = [rewrite.text for rewrite in rewrites], 0
        for chunk in self.image_policy.rollout_chunks(texts, group_size, generator=generator, **how):
            own = slice(start, start + len(chunk.prompts))
            by_row = tuple(rewrite for rewrite in rewrites[own] for _ in range(group_size))
            yield replace(chunk, prompts=tuple(prompts[own]), rewrites=by_row)
            start = own.stop

    def score(self, rollout: Rollout, rows: Tensor) -> PolicyScore:
        """Score the image policy's decisions under the texts that were drawn, not under the prompts."""
        return super().score(replace(rollout, prompts=tuple(rollout.row_texts[:: rollout.group_size])), rows)

    def rewrite(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> list[Rewrite]:
        """Rewrite each prompt once, at the rewriter's ``eval_temperature``."""
        return self.rewriter.to(self.device).rewrite(prompts, seeds, progress=progress)

    def export(self, directory: Path) -> Path:
        """Write the image policy's trained weights; the rewriter's stay where they came from."""
        return self.image_policy.export(directory)

    def _some_rewritten(self, prompts: Sequence[str], generator: torch.Generator) -> list[Rewrite]:
        """Return one rewrite per prompt; for the share that is not rewritten, the prompt itself."""
        how: dict[str, Any] = {"generator": generator, "device": generator.device}
        order = torch.randperm(len(prompts), **how).tolist()
        raw = int(self.raw_share * len(prompts) + float(torch.rand((), dtype=torch.float64, **how)))
        seeds = torch.randint(2**32, (len(prompts),), **how).tolist()
        rewrites = [Rewrite(prompt, "", formatted=False, truncated=False, skipped=True) for prompt in prompts]
        chosen = sorted(order[raw:])
        if chosen:
            written = self.rewrite([prompts[p] for p in chosen], [seeds[p] for p in chosen])
            for prompt, rewrite in zip(chosen, written, strict=True):
                rewrites[prompt] = rewrite
        return rewrites
