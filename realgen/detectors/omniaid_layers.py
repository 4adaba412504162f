"""The parts of OmniAID's networks: attention with experts, CLIP's layers around it, and the router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from realgen.detectors.clip_vision import PROJECTIONS, QuickGELU
from realgen.detectors.dinov3 import Rotation, rotate
from realgen.detectors.lora_experts import LoRAExpertLinear
from realgen.detectors.omniaid_config import OmniAIDConfig, OmniAIDDinoConfig, RoutedExperts
from realgen.detectors.svd_experts import SVDExpertLinear


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
    """Self-attention whose four maps carry experts.

    Args:
        config: The network's measures.
        names: Of the four maps, as the published files call them: query, key, value, output.
        biases: Which of them have a bias.
    """

    def __init__(
        self,
        config: OmniAIDConfig | OmniAIDDinoConfig,
        *,
        names: Sequence[str] = PROJECTIONS,
        biases: Sequence[bool] = (True, True, True, True),
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.num_heads = config.num_attention_heads
        kind = {"svd": SVDExpertLinear, "lora": LoRAExpertLinear}[config.expert_type]
        for name, bias in zip(names, biases, strict=True):
            experts = kind(config.hidden_size, config.num_experts, config.rank, config.dropout, bias=bias)
            self.add_module(name, experts)

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens width"],
        gates: Float[Tensor, "batch experts"],
        *,
        first_only: bool = False,
        rotation: Rotation | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """Attend within each image, through the experts that its gates choose.

        Args:
            hidden: [B, N, width].
            gates: [B, experts].
            first_only: Answer for the class token alone.
            rotation: Rotary positions of the patches, if there are any.

        Returns:
            [B, N, width], or [B, 1, width].
        """
        asking = hidden[:, :1] if first_only else hidden
        query, key, value = (
            getattr(self, name)(tokens, gates).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, d]
            for name, tokens in zip(self.names, (asking, hidden, hidden), strict=False)
        )
        if rotation is not None:
            key = rotate(key, rotation)
            query = query if first_only else rotate(query, rotation)  # the class token has no position
        if not hidden.is_cuda:  # on a CPU attention is faster where each head lies in one piece
            query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return cast("Tensor", getattr(self, self.names[-1])(attended, gates))


class MLP(nn.Module):
    """CLIP's two-layer perceptron."""

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation_fn: nn.Module = QuickGELU()
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Apply to each token."""
        return self.fc2(self.activation_fn(self.fc1(hidden)))


class EncoderLayer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__()
        self.self_attn = ExpertAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens width"],
        gates: Float[Tensor, "batch experts"],
        *,
        first_only: bool = False,
    ) -> Float[Tensor, "batch queries width"]:
        """Attention, then perceptron, each added to its input; of the class token alone with ``first_only``."""
        attended = self.self_attn(self.layer_norm1(hidden), gates, first_only=first_only)
        hidden = (hidden[:, :1] if first_only else hidden) + attended
        return hidden + self.mlp(self.layer_norm2(hidden))


class GatingNetwork(nn.Module):
    """The router: one logit per routed expert from one vector per image.

    Args:
        width: Of the vector.
        experts: How many there are to choose from, and the router's hidden units.
    """

    def __init__(self, width: int, experts: RoutedExperts) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(width, experts.router_hidden),
            nn.ReLU(),
            nn.Linear(experts.router_hidden, experts.num_routed),
        )

    def forward(self, features: Float[Tensor, "batch width"]) -> Float[Tensor, "batch routed"]:
        """Router logits."""
        return self.network(features)
