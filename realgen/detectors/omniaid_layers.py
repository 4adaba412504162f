"""The parts of OmniAID's network: its measures, its router, and CLIP's layers with experts in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from realgen.detectors.clip_vision import PROJECTIONS, ClipTower, quick_gelu
from realgen.detectors.svd_experts import SVDExpertLinear

RouterInput = Literal["patch_embeddings", "frozen_tower"]
Preprocess = Literal["v1", "v2"]


@dataclass(frozen=True)
class OmniAIDConfig(ClipTower):
    """Measures of an OmniAID network.

    The defaults are those of the detector in RealGen's first release (CLIP ViT-L/14 at 336 pixels), but for
    ``preprocess``: those weights saw images resized by way of 512 pixels (``v1``).
    """

    image_size: int = 336
    num_experts: int = 6
    rank: int = 1
    top_k: int = 2
    router_hidden: int = 256
    hybrid: bool = True
    router_input: str = "patch_embeddings"
    dropout: float = 0.0
    preprocess: str = "v2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.rank < self.hidden_size:
            raise ValueError(f"rank must be between 1 and {self.hidden_size - 1}, got {self.rank}.")
        if not 1 <= self.top_k <= self.num_routed:
            raise ValueError(
                f"top_k must be between 1 and the {self.num_routed} routed experts (num_experts {self.num_experts}, "
                f"hybrid {self.hybrid}), got {self.top_k}."
            )
        for name, allowed in (("router_input", get_args(RouterInput)), ("preprocess", get_args(Preprocess))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")

    @property
    def num_routed(self) -> int:
        """Experts the router chooses from; in hybrid mode the last expert (artifacts) is always on."""
        return self.num_experts - 1 if self.hybrid else self.num_experts


def sparse_gates(logits: Float[Tensor, "batch routed"], top_k: int) -> Float[Tensor, "batch routed"]:
    """Softmax over the ``top_k`` largest logits of a row, 0 elsewhere.

    Args:
        logits: [B, experts].
        top_k: Experts that act on one image.

    Returns:
        Gates; each row sums to 1.

    Example:
        >>> sparse_gates(torch.tensor([[0.0, 1.0, 1.0]]), top_k=2)
        tensor([[0.0000, 0.5000, 0.5000]])
    """
    top = logits.topk(top_k, dim=-1)
    chosen = top.values.softmax(-1).to(logits.dtype)  # autocast computes a softmax in float32
    return torch.zeros_like(logits).scatter(-1, top.indices, chosen)


class Embeddings(nn.Module):
    """Patches, class token and positions of CLIP's vision tower."""

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((config.image_size // patch) ** 2 + 1, width)

    def forward(self, pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch tokens width"]:
        """Embed pixels; the class token comes first."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # [B, N - 1, width]
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class ExpertAttention(nn.Module):
    """Self-attention whose four maps carry experts."""

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            SVDExpertLinear(config.hidden_size, config.num_experts, config.rank, config.dropout) for _ in PROJECTIONS
        )

    def forward(
        self, hidden: Float[Tensor, "batch tokens width"], gates: Float[Tensor, "batch experts"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Attend within each image, through the experts that its gates choose."""
        query, key, value = (
            getattr(self, name)(hidden, gates).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, d]
            for name in ("q_proj", "k_proj", "v_proj")
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.out_proj(attended, gates)


class MLP(nn.Module):
    """CLIP's two-layer perceptron."""

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Apply to each token."""
        return self.fc2(quick_gelu(self.fc1(hidden)))


class EncoderLayer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__()
        self.self_attn = ExpertAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, hidden: Float[Tensor, "batch tokens width"], gates: Float[Tensor, "batch experts"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Attention, then perceptron, each added to its input."""
        hidden = hidden + self.self_attn(self.layer_norm1(hidden), gates)
        return hidden + self.mlp(self.layer_norm2(hidden))


class GatingNetwork(nn.Module):
    """The router: one logit per routed expert from one vector per image."""

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(config.hidden_size, config.router_hidden),
            nn.ReLU(),
            nn.Linear(config.router_hidden, config.num_routed),
        )

    def forward(self, features: Float[Tensor, "batch width"]) -> Float[Tensor, "batch routed"]:
        """Router logits."""
        return self.network(features)
