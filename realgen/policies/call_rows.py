"""How many rows a transformer call should have on this machine: measured, where a config leaves it open."""

import math
import time
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.parallel import is_sharded, max_over_ranks
from realgen.policies.denoising import VelocityField

LEAST_GAIN = 0.03
"""Share of a row's time that twice the rows must save."""
MOST_ROWS = 512
"""Of one call that is tried."""
CALLS = 3
"""Timed calls of each size, of which the fastest counts; one more, before them, warms up."""


def choose_rows(seconds: Callable[[int], float], *, least: int = 1) -> int:
    """Double the rows of a call from ``least``, >= 1, on while the time of a row falls by more than ``LEAST_GAIN``.

    ``seconds`` are those of one call of so many rows; infinite where it does not fit into memory.
    """
    rows, best = least, seconds(least) / least
    while 2 * rows <= MOST_ROWS:
        per_row = seconds(2 * rows) / (2 * rows)
        if not per_row < (1 - LEAST_GAIN) * best:
            break
        rows, best = 2 * rows, per_row
    return rows


@torch.no_grad()
def call_seconds(
    field: VelocityField,
    latents: Float[Tensor, "some *latent"],
    prompt_index: Int[Tensor, " some"],
    to_come: int,
    rows: int,
) -> float:
    """Time a guided call of so many rows at the first step; of all ranks the slowest, infinite if it does not fit.

    It must fit beside ``to_come`` more bytes. Rows beyond those of ``latents`` repeat them. On sharded weights, where
    all ranks must make the same calls, a call that does not fit is an error.

    Raises:
        OutOfMemoryError: If it does not fit on sharded weights (``torch.OutOfMemoryError``).
    """
    device = field.schedule.sigmas.device
    chosen = torch.arange(rows) % len(latents)
    given, index = latents.to(device, torch.float32)[chosen.to(device)], prompt_index[chosen]
    times = []
    try:
        held = torch.empty(to_come, dtype=torch.uint8, device=device)
        for _ in range(1 + CALLS):
            start = time.perf_counter()
            field(given, torch.zeros_like(index), index, calls=1)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
        fastest = min(times[1:])
        del held
    except torch.OutOfMemoryError:
        if is_sharded(field.backbone.transformer):
            raise
        fastest = math.inf
    return float(max_over_ranks(torch.tensor(fastest, device=device)))
