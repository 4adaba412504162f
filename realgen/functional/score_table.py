"""Means of one number per image, over all prompts and over each category of prompts, with intervals."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.functional.bootstrap import bootstrap_mean
from realgen.functional.estimate import Estimate
from realgen.functional.proportion import share_limits


class ScoreTable(NamedTuple):
    """Row 0 is over all prompts, row 1 + c over those of category c; NaN where no image could be scored."""

    mean: Float[Tensor, " groups"]
    """Mean over prompts, each prompt counting once."""
    low: Float[Tensor, " groups"]
    """Lower end of the interval; NaN where there is none: of the mean over one prompt."""
    high: Float[Tensor, " groups"]
    """Upper end of the interval; NaN together with the lower one."""
    number: Int[Tensor, " groups"]
    """Prompts that were scored."""


def score_table(
    values: Float[Tensor, " rows"],
    prompts: Int[Tensor, " rows"],
    categories: Int[Tensor, " rows"],
    *,
    num_categories: int,
    shares: bool = False,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ScoreTable:
    """Average the images of each prompt, then the prompts, with intervals over prompts.

    The images of one prompt are not independent, so prompts are what counts. A mean is bootstrapped; over one prompt it
    has no interval. A share, where each prompt has one image, is a plain one over independent prompts and has Wilson's
    interval (``share_limits``). With more images the prompts' shares are numbers in between, bootstrapped as means are;
    but where all are equal, so that drawing them again tells nothing, Wilson's stands in: too wide rather than none.
    The order of the rows does not matter. Values are NaN for images that could not be scored, which are left out, and 1
    or 0 with ``shares``; the category of a prompt is -1 for none.

    Raises:
        ValueError: If ``shares`` is set and a value is neither 0 nor 1.
    """
    known = values.isfinite()
    if shares and bool((known & (values != 0) & (values != 1)).any()):
        raise ValueError("values of shares must be 0, 1 or NaN, got others; leave shares=False for means.")
    means, category = _prompt_means(values[known].double().cpu(), prompts[known].cpu(), categories[known].cpu())
    found = []
    for group in range(-1, num_categories):
        chosen = means if group < 0 else means[category == group]
        if len(chosen) == 0:
            found.append(Estimate(None))
        elif shares and any(bool(each.all()) for each in ((chosen == 0) | (chosen == 1), chosen == chosen[0])):
            value = float(chosen.mean())
            found.append(Estimate(value, *share_limits(value, len(chosen), confidence=confidence), len(chosen)))
        else:
            found.append(bootstrap_mean(chosen, resamples=resamples, confidence=confidence, seed=seed))
    ends = [[torch.nan if end is None else end for end in (each.value, each.low, each.high)] for each in found]
    mean, low, high = torch.tensor(ends, dtype=torch.float64).unbind(1)
    return ScoreTable(mean, low, high, torch.tensor([each.count for each in found]))


def _prompt_means(
    values: Float[Tensor, " rows"], prompts: Int[Tensor, " rows"], categories: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, " prompts"], Int[Tensor, " prompts"]]:
    """Return mean value and category of each prompt, in the order of the prompts' numbers."""
    order = values.argsort()  # sums do not depend on the order of the rows, to the last bit
    order = order[prompts[order].argsort(stable=True)]
    values, categories = values[order], categories[order]
    numbers, index = prompts[order].unique_consecutive(return_inverse=True)
    total, count = torch.zeros(2, len(numbers), dtype=torch.float64)
    total.index_add_(0, index, values)
    count.index_add_(0, index, torch.ones_like(values))
    category = torch.zeros(len(numbers), dtype=torch.int64).index_copy_(0, index, categories.long())
    return total / count, category
