"""The trainable networks behind the detectors: what they share, whatever their backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class VisionTower:
    """Measures of a vision transformer, named as in transformers' configs; by default ViT-L/14."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    patch_size: int = 14
    image_size: int = 224
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size, got {self.image_size} and {self.patch_size}."
            )


class DetectorNetwork(nn.Module, ABC):
    """A trainable detector on a vision tower; class 0 is real, class 1 is fake."""

    family: ClassVar[str] = "a detector of its own"
    """Which published detector this is, as messages call it."""
    config: VisionTower
    head: nn.Linear
    folded = False
    """Whether ``fold`` was called: the network scores, and is no longer trained or saved."""
    scoring_dtype: torch.dtype | None = None
    """What ``fold`` turns the weights into, if they shall not stay as they are."""

    @abstractmethod
    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """What the head sees of images [B, 3, H, W] in [0, 1]; resizing and normalising included."""

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2"]:
        """Logits of (real, fake) for images [B, 3, H, W] in [0, 1]; resizing and normalising included."""
        return self.head(self.features(images))

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that require a gradient, by name; each network's ``set_trainable`` says which."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def fold(self) -> DetectorNetwork:
        """Melt what is fixed while scoring into fewer weights, for good; the answers stay the same up to rounding.

        Returns:
            The network itself, frozen and in eval mode.
        """
        if not self.folded:
            self._fold()
            self.folded = True
            self.to(self.scoring_dtype)
        return self.eval().requires_grad_(False)

    def _fold(self) -> None:
        """Rewrite the network in place; nothing by default."""
