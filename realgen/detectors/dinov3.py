"""What OmniAID uses of DINOv3's vision transformer (arXiv:2508.10104): its measures, and its rotary positions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.network import VisionTower

DINO_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The four linear maps of an attention block."""


@dataclass(frozen=True)
class DinoTower(VisionTower):
    """Measures of a DINOv3 vision transformer, named as in transformers' ``DINOv3ViTConfig``; by default ViT-L/16."""

    patch_size: int = 16
    hidden_act: str = "gelu"
    num_register_tokens: int = 4
    rope_theta: float = 100.0
    use_gated_mlp: bool = False
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        width = self.hidden_size // self.num_attention_heads
        if width % 4:
            raise ValueError(f"a head must have a multiple of 4 channels, for two axes in pairs, got {width}.")

    @property
    def biases(self) -> tuple[bool, bool, bool, bool]:
        """Which of ``DINO_PROJECTIONS`` have a bias."""
        return self.query_bias, self.key_bias, self.value_bias, self.proj_bias


def dino_measures(vision_model: nn.Module) -> dict[str, Any]:
    """The ``DinoTower`` fields of a transformers ``DINOv3ViTModel``."""
    return {field.name: getattr(vision_model.config, field.name) for field in fields(DinoTower)}


def build_dino(tower: DinoTower) -> Any:
    """A randomly initialised transformers ``DINOv3ViTModel`` of these measures."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel  # seconds to import

    return DINOv3ViTModel(DINOv3ViTConfig(**{field.name: getattr(tower, field.name) for field in fields(DinoTower)}))


class Rotation(NamedTuple):
    """Rotary positions of the patches (RoFormer, arXiv:2104.09864)."""

    cos: Float[Tensor, "patches channels"]
    """[patches, d] cosines of the angles, the first half of the channels and then the second."""
    sin: Float[Tensor, "patches channels"]
    """[patches, d] their sines."""


def rotate(
    tokens: Float[Tensor, "batch heads tokens channels"], rotation: Rotation
) -> Float[Tensor, "batch heads tokens channels"]:
    """Turn each pair of channels (c, c + d/2) of the patches by its angle; the tokens before the patches stay.

    Args:
        tokens: [B, heads, N, d] queries or keys, class token and registers first.
        rotation: Of the last tokens, the patches.

    Returns:
        [B, heads, N, d].

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
