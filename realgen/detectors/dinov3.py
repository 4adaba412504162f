"""DINOv3's vision transformer (arXiv:2508.10104) as OmniAID uses it: config and rotary positions."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.configs import DinoConfig

DINO_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The four linear maps of an attention block."""


def dino_config(vision_model: nn.Module) -> DinoConfig:
    """Return the config of a transformers ``DINOv3ViTModel``."""
    return DinoConfig(**{field.name: getattr(vision_model.config, field.name) for field in fields(DinoConfig)})


def build_dino(config: DinoConfig) -> Any:
    """Return a randomly initialised transformers ``DINOv3ViTModel``."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel  # seconds to import

    return DINOv3ViTModel(DINOv3ViTConfig(**{field.name: getattr(config, field.name) for field in fields(DinoConfig)}))


class Rotation(NamedTuple):
    """Rotary positions of the patches (RoFormer, arXiv:2104.09864)."""

    cos: Float[Tensor, "patches channels"]
    """[patches, d] cosines of the angles, the first half of the channels and then the second."""
    sin: Float[Tensor, "patches channels"]
    """[patches, d] their sines."""


def rotate(
    tokens: Float[Tensor, "batch heads tokens channels"], rotation: Rotation
) -> Float[Tensor, "batch heads tokens channels"]:
    """Rotate each pair of channels (c, c + d/2) of the patches by its angle; the tokens before the patches stay.

    Of queries or keys [B, heads, N, d], the rotation is of the last tokens, the patches; class token and registers come
    first.

    Example:
        >>> quarter = Rotation(torch.zeros(1, 2), torch.ones(1, 2))
        >>> rotate(torch.tensor([[[[7.0, 7.0], [1.0, 2.0]]]]), quarter)[0, 0]
        tensor([[ 7.,  7.],
                [-2.,  1.]])
    """
    first = tokens.shape[-2] - len(rotation.cos)
    before, patches = tokens[..., :first, :], tokens[..., first:, :]
    real, imaginary = patches.chunk(2, dim=-1)
    turned = patches * rotation.cos + torch.cat([-imaginary, real], dim=-1) * rotation.sin
    return torch.cat([before, turned], dim=-2)
