"""The letters of the code, and the data that flows through one GRPO iteration.

P prompts of one rank and iteration; G samples of one prompt (``group_size``); B = P * G rows, prompt-major, so
row = p * G + g; S decisions of one sample (tokens of a completion, or the stochastic denoising steps inside the
window); b rows of a micro-batch. Images are [rows, 3, H, W] in [0, 1]; latents are [rows, C, h, w].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """The Gaussian that a stochastic denoising step drew from: x' = mean + std * noise."""

    mean: Float[Tensor, "rows decisions *latent"]
    """[b, S, C, h, w] mean of the next latent."""
    std: Float[Tensor, "rows decisions"]
    """[b, S] standard deviation of the next latent, the step size included."""
    step_size: Float[Tensor, "rows decisions"]
    """[b, S] sigma_i - sigma_{i+1} > 0."""


@dataclass(frozen=True)
class PolicyScore:
    """What a policy says of decisions already taken. Parts that a policy does not have are ``None``."""

    log_probs: Float[Tensor, "rows decisions"]
    """[b, S] log-probability of each decision; for diffusion the mean over the elements of the latent."""
    gaussian: Gaussian | None = None
    """The steps' Gaussians (diffusion only)."""
    velocity: Float[Tensor, "rows decisions *latent"] | None = None
    """[b, S, C, h, w] guided flow velocity, noise minus data (diffusion only)."""


@dataclass(frozen=True)
class Rewrite:
    """What a language model made of one prompt."""

    text: str
    """What the image model is told: the answer, or the user's prompt where there is no valid answer."""
    completion: str
    """All that the language model wrote; empty where it was not asked."""
    formatted: bool
    """Whether the completion kept to the think/answer format."""
    truncated: bool
    """Whether the completion was cut off before its end."""
    skipped: bool
    """Whether the language model was not asked: the prompt was empty or too long, or was to be kept as it is."""


@dataclass(frozen=True)
class Rollout:
    """P groups of G samples with what is needed to score them again."""

    prompts: tuple[str, ...]
    """P prompts as the user wrote them."""
    group_size: int
    """G."""
    images: Float[Tensor, "images 3 height width"]
    """[B * images_per_row, 3, H, W] in [0, 1], those of a row together; no pixels (H = W = 0) where a policy of texts
    had no image policy to draw them."""
    sampled: PolicyScore
    """The sampling policy's own score of its decisions, without gradient."""
    mask: Bool[Tensor, "rows decisions"]
    """[B, S] True where a decision counts (False pads completions)."""
    trajectory: Mapping[str, Tensor] = field(default_factory=dict)
    """What the policy needs to score its rows again; private to it, first axis B."""
    rewrites: tuple[Rewrite, ...] | None = None
    """B rewrites of the prompts, one per row; ``None`` where the image model was told the prompts themselves."""
    images_per_row: int = 1
    """N, images that were drawn of each row's text."""

    @property
    def by_image(self) -> Rollout:
        """P groups of G * N rows with one image each, for what judges or shows images; the decisions stay behind."""
        if self.images_per_row == 1:
            return self
        return Rollout(
            prompts=self.prompts,
            group_size=self.group_size * self.images_per_row,
            images=self.images,
            sampled=PolicyScore(self.images.new_zeros(len(self.images), 0)),
            mask=self.images.new_zeros(len(self.images), 0, dtype=torch.bool),
            rewrites=self.rewrites and tuple(rewrite for rewrite in self.rewrites for _ in range(self.images_per_row)),
        )

    @property
    def row_prompts(self) -> list[str]:
        """The prompt of each of the B rows, as the user wrote it."""
        return [prompt for prompt in self.prompts for _ in range(self.group_size)]

    @property
    def row_texts(self) -> list[str]:
        """What the image model was told for each of the B rows."""
        return self.row_prompts if self.rewrites is None else [rewrite.text for rewrite in self.rewrites]


@dataclass(frozen=True)
class RewardOutput:
    """Rewards of a rollout, in total and by part. Higher is better; NaN marks a sample that could not be judged."""

    total: Float[Tensor, "prompts group"]
    """[P, G] weighted sum of the parts; NaN where a part that has a weight is NaN."""
    parts: Mapping[str, Float[Tensor, "prompts group"]]
    """Each part by name, [P, G], unweighted."""
    weights: Mapping[str, float]
    """Weight of each part in the total."""

    @property
    def valid(self) -> Bool[Tensor, "prompts group"]:
        """[P, G] True where every part that has a weight could be judged."""
        return torch.isfinite(self.total)


@dataclass(frozen=True)
class Minibatch:
    """The part of an iteration that one loss call sees."""

    advantages: Float[Tensor, " rows"]
    """[b] one advantage per sample; 0 for samples that could not be judged."""
    sampled: PolicyScore
    """The sampling policy's score of the same rows (old log-probs, old Gaussians)."""
    mask: Bool[Tensor, "rows decisions"]
    """[b, S] True where a decision counts."""
    reference: PolicyScore | None = None
    """The reference policy's score of the same rows; present when the objective asks for it."""


# A NamedTuple and not a frozen dataclass: Lightning rebuilds batches field by field (devices, "bf16-true"), and refuses
# to rebuild frozen dataclasses.
class PromptBatch(NamedTuple):
    """The prompts that one rank gets for one GRPO iteration, or for one step of validation."""

    prompts: tuple[str, ...]
    """P prompts as the user wrote them."""
    keys: tuple[str, ...]
    """P keys of the samples in their shards."""
    metadata: tuple[Mapping[str, Any], ...]
    """P mappings with the other fields that the samples were written with; empty where there are none."""
    seeds: tuple[int, ...]
    """P numbers in [0, 2^32), a pure function of key and prompt: a prompt is validated on the same noise always."""
    mask: Bool[Tensor, " prompts"]
    """[P] True where a prompt counts (False repeats a prompt, so that all ranks validate the same number of rows)."""
    images: Float[Tensor, "prompts 3 height width"] | None = None
    """[P, 3, H, W] the photographs of the prompts in [0, 1]; None where the shards have none or none were asked for."""
