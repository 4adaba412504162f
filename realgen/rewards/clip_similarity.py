"""What the rewards on a CLIP share: an image and its prompt are encoded, and their features compared."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from realgen.checks import check_at_least
from realgen.functional.images import check_images
from realgen.functional.network_input import NetworkInput, to_network_input
from realgen.rewards.base import Reward
from realgen.types import Samples

TEXT_CACHE_SIZE = 4096
"""Prompts whose text features are kept; the oldest make room."""

Similarity = Literal["cosine", "dot"]
"""``cosine`` of the features; ``dot``: their dot product / 100, which grows with their length."""


class Encoders(NamedTuple):
    """A CLIP, ready to use."""

    model: Any
    """A module with ``encode_image`` and ``encode_text``, as open_clip's."""
    tokenize: Callable[[list[str]], Tensor]
    """Prompts to tokens [P, T]."""
    wanted: NetworkInput
    """How images are prepared for it."""


class ClipSimilarity(Reward):
    """Similarity of an image's and its prompt's features; subclasses say by which CLIP.

    Args:
        similarity: ``cosine`` in [-1, 1]; or ``dot``, the raw dot product / 100, as RealGen takes it from Long-CLIP.
        batch_size: Images or prompts per forward pass.

    Raises:
        ValueError: If ``batch_size`` is below 1.
    """

    def __init__(self, similarity: Similarity = "cosine", batch_size: int = 64) -> None:
        check_at_least(1, batch_size=batch_size)
        self.similarity = similarity
        self.batch_size = batch_size
        self._device = torch.device("cpu")
        self._built: Encoders | None = None
        self._text_cache: dict[str, Tensor] = {}

    @abstractmethod
    def build(self) -> Encoders:
        """Read the weights; called once, at the first use."""

    @property
    def encoders(self) -> Encoders:
        """The frozen model, read at the first use."""
        if self._built is None:
            built = self.build()
            self._built = built._replace(model=built.model.eval().requires_grad_(False).to(self._device))
        return self._built

    def to(self, device: torch.device | str) -> ClipSimilarity:
        """Move the model and the cached text features; returns self."""
        self._device = torch.device(device)
        self._text_cache = {prompt: features.to(device) for prompt, features in self._text_cache.items()}
        self.encoders.model.to(device)
        return self

    @torch.no_grad()
    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Similarity of each row's image and prompt [B]; NaN for images with NaN."""
        check_images(samples.images)
        with torch.autocast(self._device.type, enabled=False):
            texts = self._text_features(samples.prompts).repeat_interleave(samples.group_size, dim=0)
            images = torch.cat([self._image_features(chunk) for chunk in samples.images.split(self.batch_size)])
        products = (images * texts).sum(-1).to(samples.images.device)
        return products if self.similarity == "cosine" else products / 100

    def _image_features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        encoders = self.encoders
        pixels = to_network_input(images.to(self._device).float(), encoders.wanted)
        return self._scaled(encoders.model.encode_image(pixels))

    def _text_features(self, prompts: Sequence[str]) -> Float[Tensor, "prompts features"]:
        encoders, cache = self.encoders, self._text_cache
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in cache]
        for start in range(0, len(new), self.batch_size):
            chunk = new[start : start + self.batch_size]
            features = encoders.model.encode_text(encoders.tokenize(chunk).to(self._device))
            cache.update(zip(chunk, self._scaled(features), strict=True))
        features = torch.stack([cache[prompt] for prompt in prompts])
        for oldest in list(cache)[: max(len(cache) - TEXT_CACHE_SIZE, 0)]:
            del cache[oldest]
        return features

    def _scaled(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        return F.normalize(features.float(), dim=-1) if self.similarity == "cosine" else features.float()
