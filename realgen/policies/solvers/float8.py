"""Steps outside the window with large products of 8-bit numbers."""

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from realgen.checks import check_at_least
from realgen.policies.solvers.base import Solver


class Float8(Solver):
    """Approximate: outside the window the transformer's large linear layers multiply in float8 (E4M3).

    For runs in 16 bits too, where ``LowPrecision`` has nothing narrower. At each call the rows of a layer's input, and
    of its weight, are scaled by their largest number and rounded: by at most 2^-4 of a number, 2^-3 of a product. No
    weight is changed, so inside the window the type is that of scoring, and the ratio at the first update is 1 as
    exactly as without. Needs a GPU with such arithmetic (compute capability 8.9, or 9.0); not measured on one yet.

    Args:
        least_side: Layers whose weight has a smaller side, such as adapters and the last layer, stay as they are.
    """

    dtype = torch.float8_e4m3fn

    def __init__(self, least_side: int = 256) -> None:
        check_at_least(16, least_side=least_side)
        self.least_side = least_side

    def outside(self, device_type: str) -> AbstractContextManager[Any]:
        """Return the mode in which large linear layers multiply in float8."""
        return _Products(self.least_side)


class _Products(TorchFunctionMode):
    def __init__(self, least_side: int) -> None:
        super().__init__()
        self._least_side = least_side

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sides = args[1].shape if func is F.linear and len(args) > 1 else (0,)
        if min(sides) >= self._least_side and not any(side % 16 for side in sides):  # kernels take sixteens alone
            func = _linear
        return func(*args, **(kwargs or {}))


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kind = inputs.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
    (a, a_scale), (b, b_scale) = _to_float8(inputs.reshape(-1, inputs.shape[-1])), _to_float8(weight)
    # Scales by row have kernels with sums in bfloat16 only.
    product = torch._scaled_mm(a, b.t(), scale_a=a_scale, scale_b=b_scale.t(), out_dtype=torch.bfloat16).to(dtype)
    return (product if bias is None else product + bias.to(dtype)).reshape(*inputs.shape[:-1], len(weight))


def _to_float8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows rounded to float8, and the scale of each: [rows, 1] in float32."""
    scale = rows.abs().amax(1, keepdim=True).float().clamp_min(1e-12) / torch.finfo(Float8.dtype).max
    return (rows / scale).to(Float8.dtype), scale
