"""Steps outside the window in a narrower type."""

from typing import Literal

import torch

from realgen.policies.solvers.base import Solver


class LowPrecision(Solver):
    """Approximate: outside the window the transformer computes under autocast in a narrower type.

    As many transformer rows as with Euler's steps, each of them cheaper where the machine has fast arithmetic of that
    type. Weights stay as they are. Inside the window the type is that of scoring, so the ratio at the first update is
    1 as exactly as without.

    Args:
        dtype: Type of the matrix products outside the window.
    """

    def __init__(self, dtype: Literal["bfloat16", "float16"] = "bfloat16") -> None:
        self.dtype: torch.dtype = getattr(torch, dtype)
