"""OmniAID's other kind of experts: low-rank adapters beside the whole pretrained weight (LoRA, arXiv:2106.09685)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.expert_linear import ExpertLinear, LowRank


class LoRAExpertLinear(ExpertLinear):
    """y = W x + sum_e g_e B_e A_e x + bias, with one gate g_e per image and expert and no further scaling.

    Arguments are those of ``SVDExpertLinear``.
    """

    def __init__(self, features: int, num_experts: int, rank: int, dropout: float = 0.0, *, bias: bool = True) -> None:
        super().__init__(features, dropout=dropout, bias=bias)
        self.weight_fixed = nn.Parameter(torch.zeros(features, features), requires_grad=False)
        self.lora_A_experts = nn.ParameterList(torch.zeros(rank, features) for _ in range(num_experts))
        self.lora_B_experts = nn.ParameterList(torch.zeros(features, rank) for _ in range(num_experts))

    @property
    def frozen_weight(self) -> nn.Parameter:
        """W, [out, in]."""
        return self.weight_fixed

    def low_rank(self) -> LowRank:
        """Return the experts, stacked; their scale is 1."""
        down = torch.cat(tuple(self.lora_A_experts))
        scale = down.new_ones(len(self.lora_A_experts), len(self.lora_A_experts[0]))
        return LowRank(down, scale, torch.cat(tuple(self.lora_B_experts), dim=1))

    def copy_weight(self, weight: Float[Tensor, "out in"]) -> None:
        """Copy the weight of a trained map, which stays the same: each A is drawn at random, each B is zero."""
        self.weight_fixed.copy_(weight)
        for a, b in zip(self.lora_A_experts, self.lora_B_experts, strict=True):
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
            nn.init.zeros_(b)

    def main_bases(self) -> tuple[Tensor, ...]:
        """Return nothing: adapters may overlap with the whole weight."""
        return ()

    def expert_bases(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the columns of each B, and the rows of each A."""
        return list(self.lora_B_experts), [a.T for a in self.lora_A_experts]
