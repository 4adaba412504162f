"""Position embeddings, stretched to longer texts."""

import torch
from jaxtyping import Float
from torch import Tensor


def stretch_positions(
    table: Float[Tensor, "positions width"], *, keep: int = 20, factor: int = 4
) -> Float[Tensor, "stretched width"]:
    """Stretch a table of position embeddings past its first, well-trained rows (Long-CLIP, arXiv:2403.15378, eq. 3).

        q[p] = t[p]                                            for p < keep
        q[keep + factor i + j] = t[keep + i] + j / factor (t[keep + i + 1] - t[keep + i])    for 0 <= j < factor

    Behind the last row, where there is no next one, the last difference goes on. [T, D] becomes [keep + factor (T -
    keep), D]: 248 rows of CLIP's 77.

    Raises:
        ValueError: If the table is not longer than ``keep + 1`` rows.
    """
    if len(table) <= keep + 1:
        raise ValueError(
            f"table must have more than {keep + 1} rows to be stretched behind row {keep}, got {len(table)}."
        )
    tail = table[keep:]
    steps = tail.diff(dim=0)
    steps = torch.cat([steps, steps[-1:]])
    parts = torch.arange(factor, dtype=table.dtype, device=table.device) / factor
    stretched = tail[:, None] + parts[:, None] * steps[:, None]  # [T - keep, factor, D]
    return torch.cat([table[:keep], stretched.flatten(0, 1)])
