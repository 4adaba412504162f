"""The shared part of the rewards by a CLIP: encode an image and its prompt, and compare their features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from realgen.functional.network_input import NetworkInput, to_network_input
from realgen.rewards.base import FrozenReward
from realgen.types import Samples

TEXT_CACHE_SIZE = 4096
"""Number of prompts whose text features are kept; the oldest are dropped first."""

Similarity = Literal["cosine", "dot"]
"""``cosine`` of the features; ``dot``: their dot product / 100, which grows with their length."""


class Encoders(nn.Module):
    """A CLIP's image and text encoder, from images and texts to features.

    The model has ``encode_image`` and ``encode_text``, as open_clip's; ``tokenize`` turns prompts into tokens [P, T].
    """

    def __init__(self, model: Any, tokenize: Callable[[list[str]], Tensor], wanted: NetworkInput) -> None:
        super().__init__()
        self.model, self.tokenize, self.wanted = model, tokenize, wanted

    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Return the float32 features of images in [0, 1]."""
        return self.model.encode_image(to_network_input(images, self.wanted)).float()

    def encode_text(self, prompts: list[str]) -> Float[Tensor, "prompts features"]:
        """Return the float32 features of texts."""
        return self.model.encode_text(self.tokenize(prompts).to(next(self.parameters()).device)).float()


class ClipSimilarity(FrozenReward):
    """Similarity of an image's and its prompt's features; each subclass reads another CLIP.

    Args:
        similarity: ``cosine`` in [-1, 1]; or ``dot``, the raw dot product / 100, as RealGen takes it from Long-CLIP.
        batch_size: Images or prompts per forward pass.
    """

    def __init__(self, similarity: Similarity = "cosine", batch_size: int = 64) -> None:
        super().__init__(batch_size)
        self.similarity = similarity
        self._text_cache: dict[str, Tensor] = {}

    @abstractmethod
    def build(self) -> Encoders:
        """Read the weights; called once, at the first use."""

    def to(self, device: torch.device | str) -> ClipSimilarity:
        """Move the model and the cached text features; return self."""
        self._text_cache = {prompt: features.to(device) for prompt, features in self._text_cache.items()}
        super().to(device)
        return self

    @torch.no_grad()
    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return the similarity of each row's image and prompt [B]; NaN for images with NaN."""
        images = self._scaled(self.in_chunks(lambda encoders, images: encoders.encode_image(images), samples.images))
        texts = self._text_features(samples.prompts).repeat_interleave(samples.group_size, dim=0)
        products = (images * texts.to(images.device)).sum(-1)
        return products if self.similarity == "cosine" else products / 100

    def _text_features(self, prompts: Sequence[str]) -> Float[Tensor, "prompts features"]:
        encoders: Any = self.network
        cache = self._text_cache
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in cache]
        for start in range(0, len(new), self.batch_size):
            chunk = new[start : start + self.batch_size]
            with self.present(), torch.autocast(self.device.type, enabled=False):
                cache.update(zip(chunk, self._scaled(encoders.encode_text(chunk)), strict=True))
        features = torch.stack([cache[prompt] for prompt in prompts])
        for oldest in list(cache)[: max(len(cache) - TEXT_CACHE_SIZE, 0)]:
            del cache[oldest]
        return features

    def _scaled(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        return F.normalize(features, dim=-1) if self.similarity == "cosine" else features
