"""CLIP's layer as OmniAID scores with it: the same answers as ``EncoderLayer``, with fewer passes over memory."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from realgen.detectors.clip_vision import PROJECTIONS
from realgen.detectors.expert_linear import FoldedExpertLinear, add_linear_
from realgen.detectors.omniaid_layers import EncoderLayer

SHIFT = 0.25
"""Bias of a layer norm whose own scale and bias were melted away."""


@torch.no_grad()
def melt_norm(
    norm: nn.LayerNorm, weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"]
) -> Float[Tensor, "out in"]:
    """One matrix for a layer norm's scale and bias and the linear map behind it, computed in float64.

    What a norm n(x) without scale and bias gives sums to 0, so a row of a matrix behind it may be moved as a whole.
    With the shift c, the norm's scale g and bias h, and ``in`` channels:

        W (g n(x) + h) + b = A (n(x) + c),   A = W diag(g) + a 1^T,   a = (W h + b - c W g) / (c in)

    Args:
        norm: In front of the map.
        weight: W, [out, in].
        bias: b, [out].

    Returns:
        A, [out, in], in the type of ``weight``; to be used behind a norm of scale 1 and bias ``SHIFT``.

    Example:
        >>> norm = nn.LayerNorm(2)  # of (-1, 1) it makes (-1, 1)
        >>> melted = melt_norm(norm, torch.eye(2), torch.tensor([0.0, 5.0]))
        >>> melted @ (torch.tensor([-1.0, 1.0]) + SHIFT)
        tensor([-1.,  6.])
    """
    wide = weight.double()
    scaled = wide * norm.weight.double()
    constant = wide @ norm.bias.double() + bias.double()
    moved = (constant - SHIFT * scaled.sum(1)) / (SHIFT * weight.shape[1])
    return (scaled + moved.unsqueeze(1)).to(weight)


class FoldedLayer(nn.Module):
    """An ``EncoderLayer`` that only scores.

    Query, key and value are one map, the norms' scales and biases are melted into the maps behind them, and sums are
    taken where they lie: the input is overwritten.

    Args:
        layer: Whose maps with experts are folded, and whose quick GELU became a SiLU; it is used up.
    """

    @torch.no_grad()
    def __init__(self, layer: EncoderLayer) -> None:
        super().__init__()
        self.num_heads = layer.self_attn.num_heads
        self.layer_norm1, self.layer_norm2 = layer.layer_norm1, layer.layer_norm2
        self.fc1, self.activation_fn, self.fc2 = layer.mlp.fc1, nn.SiLU(inplace=True), layer.mlp.fc2
        maps = (cast("FoldedExpertLinear", getattr(layer.self_attn, name)) for name in PROJECTIONS)
        *asking, self.out_proj = maps
        self.qkv = self._side_by_side(asking)
        self.fc1.weight.copy_(melt_norm(self.layer_norm2, self.fc1.weight, self.fc1.bias))
        self.fc1.register_parameter("bias", None)
        for norm in (self.layer_norm1, self.layer_norm2):
            norm.weight.fill_(1)
            norm.bias.fill_(SHIFT)

    def _side_by_side(self, maps: list[FoldedExpertLinear]) -> FoldedExpertLinear:
        """Maps of the same input as one, whose experts stay apart."""
        weight, down = torch.cat([one.weight for one in maps]), torch.cat([one.down for one in maps])
        bias = torch.cat([cast("Tensor", one.bias) for one in maps])
        return FoldedExpertLinear(
            melt_norm(self.layer_norm1, weight, bias),
            None,
            melt_norm(self.layer_norm1, down, down.new_zeros(len(down))),
            torch.block_diag(*(one.up for one in maps)),
            rank=maps[0].rank,
        )

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens width"],
        gates: Float[Tensor, "batch routed"],
        *,
        first_only: bool = False,
    ) -> Float[Tensor, "batch queries width"]:
        """Attention, then perceptron, each added into ``hidden``; of the class token alone with ``first_only``."""
        qkv = self.qkv(self.layer_norm1(hidden), gates.repeat(1, 3))
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, N, d]
        query, key, value = qkv if hidden.is_cuda else qkv.contiguous()  # see ExpertAttention
        if first_only:
            hidden, query = hidden[:, :1], query[:, :, :1]
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        self.out_proj.add_to(hidden, attended, gates)
        middle = self.activation_fn(self.fc1(self.layer_norm2(hidden)))
        add_linear_(hidden, middle, self.fc2.weight, self.fc2.bias)
        return hidden
