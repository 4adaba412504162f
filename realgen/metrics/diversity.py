"""How different the images of one prompt are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from realgen.functional.distribution_distance import within_group_distance
from realgen.metrics.base import ImageMetric
from realgen.metrics.encoder import Encoder


class Diversity(ImageMetric):
    """Mean cosine distance between the features of two generated images of the same prompt, in [0, 2].

    Each prompt with at least two images counts once; they may come in different updates or ranks. The value depends on
    the encoder: compare it with the base model's, or with real images of the same prompts given as ``images``. It falls
    when a policy draws one image per prompt, and does not see whether different prompts get the same image.

    Args:
        encoder: One that no reward uses.
    """

    higher_is_better: bool = True
    min_samples_per_prompt: int = 2

    prompt_ids: list[Tensor]
    """Which prompt each row of ``generated`` belongs to, [rows] per update."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.add_state("prompt_ids", default=[], dist_reduce_fx="cat")

    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature"]:
        """Return features [B, D]."""
        return self.encoder.to(images.device)(images)

    def observe(
        self,
        images: Float[Tensor, "batch 3 height width"],
        prompts: Sequence[str],
        real: Float[Tensor, "batch 3 real_height real_width"] | None,
        keep: Bool[Tensor, " batch"],
    ) -> None:
        """Append the prompts' identities too."""
        super().observe(images, prompts, real, keep)
        self.prompt_ids.append(prompt_ids(prompts)[keep].to(self.device))

    def compute(self) -> Float[Tensor, ""]:
        """Return the mean over prompts of the mean pairwise distance.

        Raises:
            ValueError: If there were no images, or no prompt has two.
        """
        features, prompts = self.seen("generated"), dim_zero_cat(self.prompt_ids).cpu()
        if len(prompts.unique()) == len(prompts):
            raise ValueError(
                f"Diversity needs two images of some prompt, got one of each of {len(prompts)}; draw more of each "
                "(validation_samples_per_prompt), or leave the metric out."
            )
        return self.result(within_group_distance(features, prompts))


def prompt_ids(prompts: Sequence[str]) -> Int[Tensor, " prompts"]:
    """Return 64-bit identities of prompts, the same in every process (unlike ``hash``).

    Args:
        prompts: P texts.

    Returns:
        [P] int64; equal for equal texts, different for different ones but for one chance in 2^64 a pair.

    Example:
        >>> a, b, c = prompt_ids(["a cat", "a dog", "a cat"])
        >>> bool(a == c), bool(a == b)
        (True, False)
    """
    digests = (hashlib.blake2b(prompt.encode(), digest_size=8).digest() for prompt in prompts)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)
