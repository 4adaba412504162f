"""A language model and an image policy that are trained on the same images."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from realgen.checks import check_at_least
from realgen.policies.base import Policy, Progress
from realgen.policies.prompt_policy import PromptPolicy
from realgen.policies.rewriting_pair import RewritingPair
from realgen.types import Rewrite, Rollout


class JointRollout(NamedTuple):
    """The rollouts of both policies in one iteration; they share the images."""

    rewriting: Rollout
    """P prompts, G rewrites of each, N images of each rewrite; the decisions are tokens."""
    drawing: Rollout
    """P * G texts, N images of each; the decisions are denoising steps."""


class JointPolicy(RewritingPair):
    """A ``PromptPolicy`` that rewrites and an image policy that draws, both trained.

    As a policy it is the rewriter: ``rollout``, ``score`` and ``reference`` are of its tokens. ``rollouts`` returns the
    image policy's rollout too. The texts of a group are drawn from the same noise. ValueError if there are fewer than
    two images per rewrite, or the rewriter has settings without effect here.

    Args:
        rewriter: Writes the texts; its own ``image_policy`` must be null.
        image_policy: Draws the texts.
        images_per_rewrite: N, at least 2: the images of a text are the image policy's group.
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

    @property
    def decider(self) -> PromptPolicy:
        """Return the rewriter."""
        return self.rewriter

    def rewrite(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> list[Rewrite]:
        """Rewrite each prompt once, at the rewriter's ``eval_temperature``."""
        return self.rewriter.rewrite(prompts, seeds, progress=progress)

    def rollout_chunks(
        self, prompts: Sequence[str], group_size: int, *, generator: torch.Generator, **how: Any
    ) -> Iterator[Rollout]:
        """Yield the rewriter's part of ``rollouts``, in one chunk."""
        yield self.rollouts(prompts, group_size, generator=generator, **how).rewriting

    @torch.no_grad()
    def rollouts(
        self, prompts: Sequence[str], group_size: int, *, generator: torch.Generator, **how: Any
    ) -> JointRollout:
        """Write ``group_size`` texts for each prompt, and sample the images of each.

        The generator is used for the rewriter's tokens, then for one seed of the image policy's noise, which every text
        of a group shares.
        """
        rewriting = self.rewriter.rollout(prompts, group_size, generator=generator, **how)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        texts = rewriting.row_texts
        chunks = []
        for sample in range(group_size):  # the sample-th text of every prompt
            same = torch.Generator(generator.device).manual_seed(seed)
            own = texts[sample::group_size]
            chunks.append(self.image_policy.rollout(own, self.images_per_rewrite, generator=same, **how))
        by_sample = torch.arange(len(texts)).view(group_size, len(prompts))  # [G, P], as the chunks follow each other
        drawing = select_prompts(Rollout.concatenate(chunks), by_sample.T.flatten())
        rewriting = replace(rewriting, images=drawing.images, images_per_row=self.images_per_rewrite)
        return JointRollout(rewriting, drawing)

    def export(self, directory: Path) -> Path:
        """Write the trained weights of both, into ``rewriter`` and ``images``."""
        self.rewriter.export(directory / "rewriter")
        self.image_policy.export(directory / "images")
        return directory


def select_prompts(rollout: Rollout, prompts: Int[Tensor, " picked"]) -> Rollout:
    """Return the prompts of the given numbers, 0 to P - 1, with their groups, in the order given."""
    rows = (prompts[:, None] * rollout.group_size + torch.arange(rollout.group_size)).flatten()  # [picked * G]
    images = (rows[:, None] * rollout.images_per_row + torch.arange(rollout.images_per_row)).flatten()
    return replace(
        rollout,
        prompts=tuple(rollout.prompts[prompt] for prompt in prompts.tolist()),
        images=rollout.images[images],
        sampled=rollout.sampled and rollout.sampled.select(rows),
        mask=rollout.mask[rows],
        policy_state={name: state[rows] for name, state in rollout.policy_state.items()},
        rewrites=rollout.rewrites and tuple(rollout.rewrites[row] for row in rows.tolist()),
    )
