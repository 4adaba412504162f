"""Alignment: how well an image shows what the prompt says, by CLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from realgen.functional.images import check_images, resize
from realgen.rewards.base import Reward
from realgen.types import Rollout

TEXT_CACHE_SIZE = 4096
"""Prompts whose text features are kept; the oldest make room."""


class Encoders(NamedTuple):
    """An open_clip model, ready to use."""

    model: Any
    tokenize: Callable[[list[str]], Tensor]
    preprocess: Mapping[str, Any]


class Alignment(Reward):
    """Cosine similarity of CLIP's image and text features, in [-1, 1].

    Any open_clip model will do, one with a long text context (Long-CLIP) for long prompts. Unlike RealGen, whose
    reward is the dot product of the features before normalisation, the length of the features does not count.

    Args:
        model: A folder in open_clip's ``local-dir`` layout (``open_clip_config.json``, weights, tokenizer files); or,
            together with ``pretrained``, the name of an open_clip architecture.
        pretrained: Weights for a named architecture: a file, or a tag of open_clip's (which it downloads).
        batch_size: Images or prompts per forward pass.

    Raises:
        ValueError: If ``batch_size`` is below 1, or ``model`` is no such folder and ``pretrained`` is not given.
    """

    def __init__(self, model: str, pretrained: str | None = None, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if pretrained is None and not (Path(model) / "open_clip_config.json").is_file():
            raise ValueError(
                f"model must be a folder with open_clip_config.json, or an open_clip name with pretrained weights; got "
                f"{model!r} without pretrained."
            )
        self.batch_size = batch_size
        self.pretrained = pretrained
        self.model = model if pretrained is not None else f"local-dir:{model}"
        self._device = torch.device("cpu")
        self._built: Encoders | None = None
        self._text_cache: dict[str, Tensor] = {}

    @property
    def encoders(self) -> Encoders:
        """The frozen model, read at the first use.

        Raises:
            ValueError: If open_clip does not know the model, or finds no weights that fit it.
        """
        if self._built is None:
            import open_clip  # seconds to import

            try:
                model = open_clip.create_model(self.model, pretrained=self.pretrained, require_pretrained=True)
            except RuntimeError as error:
                raise ValueError(f"open_clip cannot load model {self.model!r}: {error}") from error
            model = model.eval().requires_grad_(False).to(self._device)
            self._built = Encoders(model, open_clip.get_tokenizer(self.model), model.visual.preprocess_cfg)
        return self._built

    def to(self, device: torch.device | str) -> Alignment:
        """Move the model and the cached text features; returns self."""
        self._device = torch.device(device)
        self._text_cache = {prompt: features.to(device) for prompt, features in self._text_cache.items()}
        self.encoders.model.to(device)
        return self

    @torch.no_grad()
    def score(self, rollout: Rollout) -> Float[Tensor, " rows"]:
        """Similarity of each row's image and prompt [B]; NaN for images with NaN."""
        check_images(rollout.images)
        with torch.autocast(self._device.type, enabled=False):
            texts = self._text_features(rollout.prompts).repeat_interleave(rollout.group_size, dim=0)
            images = torch.cat([self._image_features(chunk) for chunk in rollout.images.split(self.batch_size)])
        return (images * texts).sum(-1).to(rollout.images.device)

    def _image_features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        encoders = self.encoders
        pixels = open_clip_pixels(images.to(self._device).float(), encoders.preprocess)
        return F.normalize(encoders.model.encode_image(pixels).float(), dim=-1)

    def _text_features(self, prompts: Sequence[str]) -> Float[Tensor, "prompts features"]:
        encoders, cache = self.encoders, self._text_cache
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in cache]
        for start in range(0, len(new), self.batch_size):
            chunk = new[start : start + self.batch_size]
            features = encoders.model.encode_text(encoders.tokenize(chunk).to(self._device)).float()
            cache.update(zip(chunk, F.normalize(features, dim=-1), strict=True))
        features = torch.stack([cache[prompt] for prompt in prompts])
        for oldest in list(cache)[: max(len(cache) - TEXT_CACHE_SIZE, 0)]:
            del cache[oldest]
        return features


def open_clip_pixels(
    images: Float[Tensor, "batch 3 height width"], preprocess: Mapping[str, Any]
) -> Float[Tensor, "batch 3 new_height new_width"]:
    """Prepare tensors the way open_clip's evaluation transform prepares files: resize, crop, normalise.

    Args:
        images: [B, 3, H, W] in [0, 1].
        preprocess: A model's ``preprocess_cfg``: ``size``, ``mean``, ``std``, ``interpolation``, ``resize_mode``.

    Returns:
        [B, 3, *size].

    Raises:
        ValueError: If ``resize_mode`` is another than ``shortest`` (shorter side to size, centre crop) or ``squash``
            (both sides to size).

    Example:
        >>> half = {"size": 2, "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
        >>> open_clip_pixels(torch.zeros(1, 3, 4, 6), {**half, "resize_mode": "shortest"})[0, 0]
        tensor([[-1., -1.],
                [-1., -1.]])
    """
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode: Literal["bilinear", "bicubic"] = "bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic"
    if preprocess["resize_mode"] == "shortest":
        old_height, old_width = images.shape[2:]
        upright = height * old_width <= width * old_height  # the width decides the scale
        full = (old_height * width // old_width, width) if upright else (height, old_width * height // old_height)
        top, left = round((full[0] - height) / 2), round((full[1] - width) / 2)
        images = resize(images, full, mode=mode)[:, :, top : top + height, left : left + width]
    elif preprocess["resize_mode"] == "squash":
        images = resize(images, (height, width), mode=mode)
    else:
        raise ValueError(f"resize_mode must be 'shortest' or 'squash', got {preprocess['resize_mode']!r}.")
    mean, std = (images.new_tensor(preprocess[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (images - mean) / std
