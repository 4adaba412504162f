"""The shared part of OmniAID's networks, whatever their tower: router, and attention with experts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from realgen.detectors.clip_vision import PROJECTIONS
from realgen.detectors.configs import OmniAIDConfig, OmniAIDDinoConfig, RoutedExperts
from realgen.detectors.dinov3 import Rotation, rotate
from realgen.detectors.expert_training import ExpertTraining
from realgen.detectors.lora_experts import LoRAExpertLinear
from realgen.detectors.svd_experts import SVDExpertLinear


def sparse_gates(logits: Float[Tensor, "batch routed"], top_k: int) -> Float[Tensor, "batch routed"]:
    """Return the softmax over the ``top_k`` largest logits of a row, 0 elsewhere.

    Args:
        logits: [B, experts].
        top_k: Experts that act on one image.

    Example:
        >>> sparse_gates(torch.tensor([[0.0, 1.0, 1.0]]), top_k=2)
        tensor([[0.0000, 0.5000, 0.5000]])
    """
    top = logits.topk(top_k, dim=-1)
    chosen = top.values.softmax(-1).to(logits.dtype)  # autocast computes a softmax in float32
    return torch.zeros_like(logits).scatter(-1, top.indices, chosen)


class GatingNetwork(nn.Module):
    """The router: one logit per routed expert from one vector per image.

    Args:
        width: Of the vector.
        experts: The number of routed experts, and the router's hidden units.
    """

    def __init__(self, width: int, experts: RoutedExperts) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(width, experts.router_hidden),
            nn.ReLU(),
            nn.Linear(experts.router_hidden, experts.num_routed),
        )

    def forward(self, features: Float[Tensor, "batch width"]) -> Float[Tensor, "batch routed"]:
        """Return router logits."""
        return self.network(features)


class ExpertAttention(nn.Module):
    """Self-attention whose four projections carry experts.

    Args:
        config: Of the network.
        names: Of the four projections in published files: query, key, value, output.
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
            first_only: Compute the class token's output alone.
            rotation: Rotary positions of the patches, if there are any.

        Returns:
            [B, N, width], or [B, 1, width].
        """
        query_tokens = hidden[:, :1] if first_only else hidden
        query, key, value = (
            getattr(self, name)(tokens, gates).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, d]
            for name, tokens in zip(self.names, (query_tokens, hidden, hidden), strict=False)
        )
        if rotation is not None:
            key = rotate(key, rotation)
            query = query if first_only else rotate(query, rotation)  # the class token has no position
        if not hidden.is_cuda:  # on a CPU attention is faster where each head lies in one piece
            query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)  # [B, N, width]
        return cast("Tensor", getattr(self, self.names[-1])(attended, gates))


class RoutedNetwork(ExpertTraining):
    """A vision tower with routed experts, class token to two classes; all layers and tokens of an image share gates.

    Args:
        config: Of the tower and its experts.
    """

    embeddings: nn.Module
    gating_network: GatingNetwork
    num_prefix_tokens = 1
    """Tokens before the patches."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def pixels(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """Return the tower's input for images in [0, 1]."""

    @abstractmethod
    def encode(
        self, embedded: Tensor, pixels: Tensor, gates: Float[Tensor, "batch experts"]
    ) -> Float[Tensor, "batch features"]:
        """Return the normalised class token after all layers."""

    def router_logits(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch routed"]:
        """Return one logit per routed expert, for images in [0, 1]; to train the router on known domains."""
        pixels = self._typed_pixels(images)
        return self._router_logits(pixels, self.embeddings(pixels))

    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Return the normalised class token, the head's input, for images in [0, 1]."""
        pixels = self._typed_pixels(images)
        embedded = self.embeddings(pixels)
        gates = sparse_gates(self._router_logits(pixels, embedded), self.config.top_k)
        if self.config.hybrid and not self.merged:  # the last expert is always on
            gates = torch.cat([gates, torch.ones_like(gates[:, :1])], dim=1)
        return self.encode(embedded, pixels, gates)

    def _typed_pixels(self, images: Tensor) -> Tensor:
        return self.pixels(images).to(self.head.weight.dtype)  # resized in the images' own type

    def _router_logits(self, pixels: Tensor, embedded: Tensor) -> Tensor:
        if self.feature_extractor is None:
            return self.gating_network(embedded[:, self.num_prefix_tokens :].mean(1))
        with torch.no_grad():
            pooled = self.feature_extractor(pixel_values=pixels).pooler_output
        return self.gating_network(pooled)
