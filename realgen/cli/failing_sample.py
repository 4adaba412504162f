"""Finds the sample at which a reward raised an error, after the run has ended."""

from __future__ import annotations

import traceback

import torch

from realgen.rewards.base import Reward
from realgen.types import Samples


@torch.no_grad()
def failing_sample(error: Exception) -> str | None:
    """Return the sample at which a reward failed, by scoring each alone; None if none did, or not for a sample."""
    found: tuple[Reward, Samples] | None = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        names = frame.f_locals
        samples = next((value for value in names.values() if isinstance(value, Samples)), None)
        if isinstance(names.get("self"), Reward) and frame.f_code.co_name == "score" and samples is not None:
            found = names["self"], samples  # the innermost of them
    if found is None or not found[0].fails_by_sample or isinstance(error, torch.OutOfMemoryError | MemoryError):
        return None
    reward, samples = found
    for row, prompt in enumerate(samples.row_prompts):
        try:
            reward.score(_one(samples, row))
        except Exception as again:  # a reward may raise anything
            if type(again) is type(error):
                return f"sample {row % samples.group_size + 1} of {samples.group_size} of {prompt[:80]!r}"
    return f"{len(samples.images)} samples together, the first of {samples.prompts[0][:80]!r}"


def _one(samples: Samples, row: int) -> Samples:
    prompt, rewrites = row // samples.group_size, samples.rewrites
    return Samples(
        (samples.prompts[prompt],),
        1,
        samples.images[row : row + 1],
        None if rewrites is None else rewrites[row : row + 1],
        samples.metadata[prompt : prompt + 1],
    )
