"""Linear maps with experts: a frozen weight, and per image a gated sum of small low-rank maps beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from realgen.detectors.merged_linear import MergedExpertLinear


class LowRank(NamedTuple):
    """All experts side by side: expert e is ``up_e diag(scale_e) down_e``."""

    down: Float[Tensor, "all_ranks in"]
    """[E r, in] reads the input."""
    scale: Float[Tensor, "experts rank"]
    """[E, r] weighs the r coordinates of each expert."""
    up: Float[Tensor, "out all_ranks"]
    """[out, E r] writes the output."""


class ExpertLinear(nn.Module, ABC):
    """y = W x + sum_e g_e up_e diag(scale_e) down_e x + bias, with one gate g_e per image and expert.

    All experts are applied side by side, as one map of rank E r whose coordinates are scaled by the gates: that is two
    matrix products for the whole batch, whichever experts its images chose. ``features`` is the width of input and
    output, ``dropout`` of the experts' inputs, in training only.
    """

    def __init__(self, features: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(features), requires_grad=False) if bias else None
        self.dropout = nn.Dropout(dropout)

    @property
    @abstractmethod
    def frozen_weight(self) -> nn.Parameter:
        """W, [out, in]."""

    @abstractmethod
    def low_rank(self) -> LowRank:
        """Return the experts, stacked; differentiable in them."""

    @torch.no_grad()
    def copy_from(self, weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None) -> None:
        """Copy a trained linear map, see ``copy_weight``."""
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)
        self.copy_weight(weight)

    @abstractmethod
    def copy_weight(self, weight: Float[Tensor, "out in"]) -> None:
        """Copy the weight of a trained linear map."""

    @abstractmethod
    def main_bases(self) -> tuple[Tensor, ...]:
        """Return what the orthogonality loss keeps the experts apart from: ``(U, V)`` of W as columns, or ()."""

    @abstractmethod
    def expert_bases(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return each expert's output basis and input basis, [features, r] with vectors as columns."""

    def forward(
        self, hidden: Float[Tensor, "batch tokens features"], gates: Float[Tensor, "batch experts"]
    ) -> Float[Tensor, "batch tokens features"]:
        """Map tokens; ``gates`` are 0 for the experts that an image does not use."""
        experts = self.low_rank()
        scale = (gates.unsqueeze(-1) * experts.scale).flatten(1)  # [B, E r]
        low = F.linear(self.dropout(hidden), experts.down) * scale.unsqueeze(1)  # [B, N, E r]
        return F.linear(hidden, self.frozen_weight, self.bias) + F.linear(low, experts.up)

    @torch.no_grad()
    def merged(self, always_on: int) -> MergedExpertLinear:
        """Return the same map for scoring: the last experts merged into W (in float64), the others stacked once.

        ``always_on`` of them have gate 1 for every image; the map takes the gates of the others alone.
        """
        experts = self.low_rank()
        num_experts, rank = experts.scale.shape
        cut = (num_experts - always_on) * rank
        down = (experts.scale.reshape(-1, 1) * experts.down).double()
        up = experts.up.double()
        weight = self.frozen_weight.double() + up[:, cut:] @ down[cut:]
        return MergedExpertLinear(
            weight.to(self.frozen_weight),
            None if self.bias is None else self.bias.detach(),
            down[:cut].to(self.frozen_weight),
            up[:, :cut].T.to(self.frozen_weight),
            rank=rank,
        )
