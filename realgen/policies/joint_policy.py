"""A language model and an image policy that learn from the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least
from realgen.policies.base import Policy, Progress
from realgen.policies.prompt_policy import PromptPolicy
from realgen.types import PolicyScore, Rewrite, Rollout


class JointRollout(NamedTuple):
    """What an iteration of both sampled; the images are the same."""

    rewriting: Rollout
    """P prompts, G rewrites of each, N images of each rewrite; the decisions are tokens."""
    drawing: Rollout
    """P * G texts, N images of each; the decisions are denoising steps."""


class JointPolicy(Policy):
    """A ``PromptPolicy`` that rewrites and an image policy that draws, both trained.

    As a policy it is the rewriter: ``rollout``, ``score`` and ``reference`` are of its tokens. ``rollouts`` and
    ``image_policy`` give what the images taught the other one. The texts of a group are drawn from the same noise.

    Args:
        rewriter: Writes the texts; its own ``image_policy`` must be null.
        image_policy: Draws them.
        images_per_rewrite: N, at least 2: the images of a text are the image policy's group.

    Raises:
        ValueError: If there are fewer than two images a rewrite, or the rewriter would draw, or count, by itself.
    """

    def __init__(self, rewriter: PromptPolicy, *, image_policy: Policy, images_per_rewrite: int = 4) -> None:
        super().__init__()
        check_at_least(2, ", a group of images", images_per_rewrite=images_per_rewrite)
        if rewriter.image_policy is not None:
            raise ValueError("rewriter.image_policy must be null: the joint policy's image_policy draws.")
        if (images := rewriter.images_per_rewrite) != 1:
            raise ValueError(f"rewriter.images_per_rewrite must be 1, got {images}: the joint policy's own counts.")
        image_policy.check_group_size(images_per_rewrite)
        self.rewriter = rewriter
        self.image_policy = image_policy
        self.images_per_rewrite = images_per_rewrite

    def load(self) -> None:
        """Read both; a second call does nothing."""
        self.rewriter.load()
        self.image_policy.load()

    def check_objective(self, name: str, fields: frozenset[str], *, reference: bool) -> None:
        """Raise ValueError where the rewriter does."""
        self.rewriter.check_objective(name, fields, reference=reference)

    @property
    def transformer_evals(self) -> int:
        """Those of the image policy."""
        return self.image_policy.transformer_evals

    def statistics(self, rollout: Rollout) -> dict[str, float]:
        """Return the rewriter's statistics."""
        return self.rewriter.statistics(rollout)

    def check_trainable(self, key: str) -> None:
        """Raise ValueError if the image policy has no decision that could be trained."""
        self.image_policy.check_trainable(f"{key}.image_policy")

    def check_group_size(self, group_size: int) -> None:
        """Raise ValueError where the rewriter does."""
        self.rewriter.check_group_size(group_size)

    def rollout_chunks(
        self,
        prompts: Sequence[str],
        group_size: int,
        *,
        generator: torch.Generator,
        iteration: int = 0,
        progress: Progress | None = None,
    ) -> Iterator[Rollout]:
        """Yield the rewriter's part of ``rollouts``, in one chunk."""
        how: dict[str, Any] = {"generator": generator, "iteration": iteration, "progress": progress}
        yield self.rollouts(prompts, group_size, **how).rewriting

    @torch.no_grad()
    def rollouts(
        self,
        prompts: Sequence[str],
        group_size: int,
        *,
        generator: torch.Generator,
        iteration: int = 0,
        progress: Progress | None = None,
    ) -> JointRollout:
        """Write ``group_size`` texts for each prompt, and sample the images of each.

        The generator gives what the rewriter draws, then the seed of all that the image policy draws; that is the same
        for every text of a group.

        Args:
            prompts: P texts.
            group_size: G.
            generator: All randomness.
            iteration: GRPO iteration, for both policies.
            progress: Called while either goes on.

        Returns:
            Both rollouts.
        """
        how: dict[str, Any] = {"iteration": iteration, "progress": progress}
        rewriting = self.rewriter.rollout(prompts, group_size, generator=generator, **how)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        texts = rewriting.row_texts
        chunks = []
        for sample in range(group_size):  # the sample-th text of every prompt
            same = torch.Generator(generator.device).manual_seed(seed)
            own = texts[sample::group_size]
            chunks.append(self.image_policy.rollout(own, self.images_per_rewrite, generator=same, **how))
        by_sample = torch.arange(len(texts)).view(group_size, len(prompts))  # [G, P], as the chunks follow each other
        drawing = Rollout.concatenate(chunks).select_prompts(by_sample.T.flatten())
        rewriting = replace(rewriting, images=drawing.images, images_per_row=self.images_per_rewrite)
        return JointRollout(rewriting, drawing)

    def score(self, rollout: Rollout, rows: Tensor) -> PolicyScore:
        """Score the rewriter's tokens."""
        return self.rewriter.score(rollout, rows)

    def reference(self) -> AbstractContextManager[None]:
        """Inside this context the rewriter is its frozen start."""
        return self.rewriter.reference()

    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> Float[Tensor, "rows 3 height width"]:
        """Rewrite each prompt and draw what was written, both from the row's seed."""
        return self.sample_rewritten(prompts, seeds, progress=progress)[0]

    def sample_rewritten(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> tuple[Float[Tensor, "rows 3 height width"], list[Rewrite]]:
        """Return ``sample``, and the rewrites."""
        rewrites = self.rewriter.rewrite(prompts, seeds, progress=progress)
        return self.image_policy.sample([rewrite.text for rewrite in rewrites], seeds, progress=progress), rewrites

    def export(self, directory: Path) -> Path:
        """Write the trained weights of both, into ``rewriter`` and ``images``."""
        self.rewriter.export(directory / "rewriter")
        self.image_policy.export(directory / "images")
        return directory
