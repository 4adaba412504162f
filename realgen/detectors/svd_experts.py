"""Linear maps split by singular value decomposition: a frozen main part, and small trainable parts of low rank.

W = U diag(S) V with the singular values falling. The main part keeps all but the last r; the last r are what a
detector retrains, so that it cannot forget what the large singular values hold (Effort, arXiv:2411.15633; OmniAID).
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from realgen.detectors.expert_linear import ExpertLinear, LowRank


class SplitWeight(NamedTuple):
    """W = main + u diag(s) v."""

    main: Float[Tensor, "out in"]
    """[out, in] all but the r smallest singular values."""
    u: Float[Tensor, "out rank"]
    """[out, r] left singular vectors of the r smallest."""
    s: Float[Tensor, " rank"]
    """[r] the r smallest singular values."""
    v: Float[Tensor, "rank in"]
    """[r, in] right singular vectors of the r smallest."""


@torch.no_grad()
def split_weight(weight: Float[Tensor, "out in"], rank: int) -> SplitWeight:
    """Split a weight [out, in] into its large singular values and its ``rank`` smallest, in its own type.

    Computed in float64, so the parts add up to the weight within the rounding of its type.

    Raises:
        ValueError: If ``rank`` leaves nothing on one side.
    """
    if not 1 <= rank < min(weight.shape):
        raise ValueError(f"rank must be between 1 and {min(weight.shape) - 1}, got {rank}.")
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    main = u[:, :-rank] * s[:-rank] @ v[:-rank]
    parts = (main, u[:, -rank:], s[-rank:], v[-rank:])
    return SplitWeight(*(part.to(weight.dtype).contiguous() for part in parts))


class SVDExpertLinear(ExpertLinear):
    """y = W_main x + sum_e g_e U_e diag(S_e) V_e x + bias, with one gate g_e per image and expert.

    ``features`` is the width of input and output, ``rank`` that of one expert.
    """

    def __init__(self, features: int, num_experts: int, rank: int, dropout: float = 0.0, *, bias: bool = True) -> None:
        super().__init__(features, dropout=dropout, bias=bias)
        self.rank = rank
        self.weight_main = nn.Parameter(torch.zeros(features, features), requires_grad=False)
        self.U_experts = nn.ParameterList(torch.zeros(features, rank) for _ in range(num_experts))
        self.S_experts = nn.ParameterList(torch.zeros(rank) for _ in range(num_experts))
        self.V_experts = nn.ParameterList(torch.zeros(rank, features) for _ in range(num_experts))

    @property
    def frozen_weight(self) -> nn.Parameter:
        """W_main, [out, in]."""
        return self.weight_main

    def low_rank(self) -> LowRank:
        """Return the experts, stacked."""
        down, up = torch.cat(tuple(self.V_experts)), torch.cat(tuple(self.U_experts), dim=1)
        return LowRank(down, torch.stack(tuple(self.S_experts)), up)

    def copy_weight(self, weight: Float[Tensor, "out in"]) -> None:
        """Copy the weight of a trained map; its smallest singular values become every expert, identically."""
        split = split_weight(weight, self.rank)
        self.weight_main.copy_(split.main)
        for experts, part in ((self.U_experts, split.u), (self.S_experts, split.s), (self.V_experts, split.v)):
            for expert in experts:
                expert.copy_(part)

    @torch.no_grad()
    def main_bases(self) -> tuple[Tensor, ...]:
        """Return orthonormal bases, as columns, of W_main's outputs and inputs: its left and right singular vectors.

        Published files store them (``U_r``, ``V_r``); W_main gives them back up to a rotation, which no term of the
        orthogonality loss sees.
        """
        u, _, v = torch.linalg.svd(self.weight_main.double())
        kept = len(u) - self.rank
        return u[:, :kept].to(self.weight_main), v[:kept].T.to(self.weight_main)

    def expert_bases(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the columns of each U, and the rows of each V."""
        return list(self.U_experts), [v.T for v in self.V_experts]


def overlap(bases: Sequence[Float[Tensor, "features _"]]) -> Float[Tensor, ""]:
    """Return the mean over pairs of bases, two or more, of ||A^T B||_F, columns of length 1; 0 for orthogonal ones."""
    unit = [F.normalize(basis, dim=0) for basis in bases]
    pairs = [torch.linalg.matrix_norm(a.T @ b) for a, b in combinations(unit, 2)]
    return torch.stack(pairs).mean()


def orthogonality_loss(linears: Sequence[ExpertLinear], main_bases: Sequence[tuple[Tensor, ...]]) -> Float[Tensor, ""]:
    """Keep the experts apart from each other and from the main part (OmniAID's regulariser, weight 0.001 there).

    Per linear map, ``overlap`` of the main basis, where there is one, and all experts on the output side (U, or LoRA's
    B), plus the same on the input side (V, or A); then the mean over the maps. ``main_bases`` are those of each map,
    computed once, as the main parts are frozen. Differentiable in the experts.
    """
    terms = []
    for linear, main in zip(linears, main_bases, strict=True):
        written, read = linear.expert_bases()
        terms.append(overlap([*main[:1], *written]) + overlap([*main[1:], *read]))
    return torch.stack(terms).mean()
