"""Means of one number per image, over all prompts and over each category of prompts, with bootstrap intervals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.functional.bootstrap import bootstrap_mean


class ScoreTable(NamedTuple):
    """Row 0 is over all prompts, row 1 + c over those of category c; NaN where no image could be judged."""

    mean: Float[Tensor, " groups"]
    """Mean over prompts, each prompt counting once."""
    low: Float[Tensor, " groups"]
    """Lower end of the interval."""
    high: Float[Tensor, " groups"]
    """Upper end of the interval."""
    number: Int[Tensor, " groups"]
    """Prompts that were judged."""


def score_table(
    values: Float[Tensor, " rows"],
    prompts: Int[Tensor, " rows"],
    categories: Int[Tensor, " rows"],
    *,
    num_categories: int,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ScoreTable:
    """Average the images of each prompt, then the prompts, and bootstrap over prompts.

    The images of one prompt are not independent, so prompts are what is drawn again. The order of the rows does not
    matter.

    Args:
        values: [B] one number per image; NaN for an image that could not be judged, which is left out.
        prompts: [B] number of the image's prompt, any integers.
        categories: [B] category of the prompt, in [0, ``num_categories``); -1 for none.
        num_categories: C.
        resamples: Bootstrap resamples.
        confidence: Of the intervals, between 0 and 1.
        seed: Of the resamples.

    Returns:
        Four tensors [1 + C], float64.

    Example:
        >>> rows = torch.tensor([0, 1, 1])
        >>> score_table(torch.tensor([1.0, 0.0, 1.0]), rows, rows, num_categories=2).mean
        tensor([0.7500, 1.0000, 0.5000], dtype=torch.float64)
    """
    judged = values.isfinite()
    means, category = _prompt_means(values[judged].double().cpu(), prompts[judged].cpu(), categories[judged].cpu())
    columns = []
    for group in range(-1, num_categories):
        chosen = means if group < 0 else means[category == group]
        if len(chosen) == 0:
            columns.append((torch.nan, torch.nan, torch.nan, 0))
            continue
        found = bootstrap_mean(chosen, resamples=resamples, confidence=confidence, seed=seed)
        columns.append((found.value, found.low, found.high, len(chosen)))
    mean, low, high, number = (list(column) for column in zip(*columns, strict=True))
    means, lows, highs = (torch.tensor(column, dtype=torch.float64) for column in (mean, low, high))
    return ScoreTable(means, lows, highs, torch.tensor(number))


def _prompt_means(
    values: Float[Tensor, " rows"], prompts: Int[Tensor, " rows"], categories: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, " prompts"], Int[Tensor, " prompts"]]:
    """Mean value and category of each prompt, in the order of the prompts' numbers."""
    order = values.argsort()  # sums do not depend on the order of the rows, to the last bit
    order = order[prompts[order].argsort(stable=True)]
    values, categories = values[order], categories[order]
    numbers, index = prompts[order].unique_consecutive(return_inverse=True)
    total, count = torch.zeros(2, len(numbers), dtype=torch.float64)
    total.index_add_(0, index, values)
    count.index_add_(0, index, torch.ones_like(values))
    category = torch.zeros(len(numbers), dtype=torch.int64).index_copy_(0, index, categories.long())
    return total / count, category
