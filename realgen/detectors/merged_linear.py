"""What scores in place of a linear map with experts; a training step enters it alone."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


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
