"""What the detectors share of CLIP's vision tower: its measures, its pixels, and how its weights are named."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.functional.images import resize

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""The four linear maps of an attention block."""


@dataclass(frozen=True)
class ClipTower:
    """Measures of a CLIP vision tower, named as in transformers' ``CLIPVisionConfig``; by default ViT-L/14.

    The activation of the MLP is the quick GELU of OpenAI's CLIP.
    """

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


class ClipDetectorNetwork(nn.Module, ABC):
    """A trainable detector on a CLIP vision tower; class 0 is real, class 1 is fake."""

    config: ClipTower
    head: nn.Linear

    @abstractmethod
    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """What the head sees of images [B, 3, H, W] in [0, 1]; resizing and normalising included."""

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2"]:
        """Logits of (real, fake) for images [B, 3, H, W] in [0, 1]; resizing and normalising included."""
        return self.head(self.features(images))

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that require a gradient, by name; each network's ``set_trainable`` says which."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def measures(vision_model: nn.Module) -> dict[str, int | float]:
    """The ``ClipTower`` fields of a transformers ``CLIPVisionModel``.

    Args:
        vision_model: The tower, or an older transformers' wrapper around it.

    Returns:
        Field names and values.

    Raises:
        ValueError: If the tower's MLP has another activation than quick GELU.
    """
    config: Any = vision_model.config
    if config.hidden_act != "quick_gelu":
        raise ValueError(f"the CLIP tower's hidden_act must be 'quick_gelu', got {config.hidden_act!r}.")
    return {field.name: getattr(config, field.name) for field in fields(ClipTower)}


def build_tower(tower: ClipTower) -> Any:
    """A randomly initialised transformers ``CLIPVisionModel`` of these measures."""
    from transformers import CLIPVisionConfig, CLIPVisionModel  # seconds to import

    return CLIPVisionModel(CLIPVisionConfig(**{field.name: getattr(tower, field.name) for field in fields(ClipTower)}))


def tower_state_dict(vision_model: nn.Module) -> dict[str, Tensor]:
    """The tower's weights as transformers >= 5 names them: without a ``vision_model.`` in front."""
    state = vision_model.state_dict().items()
    return {name.removeprefix("vision_model."): value for name, value in state if not name.endswith("position_ids")}


def clip_pixels(
    images: Float[Tensor, "batch 3 height width"], size: int, *, preprocess: Literal["v1", "v2"] = "v2"
) -> Float[Tensor, "batch 3 size size"]:
    """What CLIP's vision tower sees of an image: resized (the aspect is not kept) and normalised per channel.

    Args:
        images: [B, 3, H, W] in [0, 1].
        size: The tower's height and width in pixels.
        preprocess: ``v2`` resizes once; ``v1`` resizes to 512 pixels first, as OmniAID's first weights expect.

    Returns:
        [B, 3, size, size] with CLIP's mean and standard deviation taken out.

    Example:
        >>> clip_pixels(torch.zeros(1, 3, 8, 8), 4)[0, :, 0, 0]
        tensor([-1.7923, -1.7521, -1.4802])
    """
    if preprocess == "v1":
        images = resize(images, 512, mode="bilinear")
    images = resize(images, size, mode="bilinear")
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std


def quick_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """OpenAI's approximation of the GELU, x * sigmoid(1.702 x).

    Example:
        >>> quick_gelu(torch.tensor([0.0, 1.0]))
        tensor([0.0000, 0.8458])
    """
    return x * torch.sigmoid(1.702 * x)
