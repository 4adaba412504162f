"""Linear maps with experts: a frozen weight, and per image a gated sum of small low-rank maps beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


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
        """Return the map for scoring: the last ``always_on`` experts, of gate 1, in W (by float64), others stacked."""
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


class MergedExpertLinear(nn.Module):
    """A frozen ``ExpertLinear``: nothing is stacked per call, and the experts are added to the output in place.

    ``weight`` [out, in] holds the experts that are always on; ``down`` [R r, in], their scale included, and ``up`` [R
    r, out] are those of the R routed ones.
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    up: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, *, rank: int) -> None:
        super().__init__()
        self.rank = rank
        for name, value in (("weight", weight), ("bias", bias), ("down", down), ("up", up)):
            self.register_buffer(name, None if value is None else value.contiguous())

    def forward(
        self, hidden: Float[Tensor, "batch tokens features"], gates: Float[Tensor, "batch routed"]
    ) -> Float[Tensor, "batch tokens features"]:
        """Map tokens; ``gates`` are those of the routed experts."""
        scale = gates.repeat_interleave(self.rank, dim=1).unsqueeze(1)  # [B, 1, R r]
        low = F.linear(hidden, self.down) * scale  # [B, N, R r]
        mapped = F.linear(hidden, self.weight, self.bias)
        mapped.flatten(0, 1).addmm_(low.flatten(0, 1), self.up)
        return mapped
