"""How sure a mean is, or an AUROC: percentile bootstrap over prompts, of one column or of many drawn together."""

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least, check_confidence
from realgen.functional.estimate import Estimate

_DRAWS_AT_ONCE = 2**22  # random rows held in memory at a time; 32 MiB of indices


def bootstrap_mean(
    values: Float[Tensor, " prompts"], *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Estimate a mean over prompts with its interval, by resampling prompts with replacement (Efron 1979).

    The limits are the percentiles (1 -+ confidence) / 2 of the resampled means. They are too narrow for few prompts (n
    < 20 or so), by about the factor sqrt((n - 1) / n), and say nothing of other seeds or of a judge's own noise. One
    prompt says nothing of how prompts differ, so it has no limits. Of shares see ``functional.proportion``. Rows [P]
    must be independent: average over the images of a prompt first. The same seed and number of prompts draw the same
    prompts, whatever the values. ValueError if there is no prompt, a value is not finite, or a number is out of range.
    """
    means = resampled_means(values.unsqueeze(1), resamples=resamples, seed=seed)
    low, high = percentile_limits(means, confidence)
    value, count = float(values.double().mean()), len(values)
    return Estimate(value, None, None, count) if count == 1 else Estimate(value, float(low), float(high), count)


def bootstrap_auroc(generated: Float[Tensor, " m"], real: Float[Tensor, " n"], *, paired: bool = False) -> Estimate:
    """Estimate the probability that a generated image scores above a real one, with its interval of 95 %.

    Resampled is what each image adds to the AUROC (DeLong et al. 1988), which leaves out O(1 / n) of its spread.
    ``paired``: row i of both is of one photograph. Raises ValueError for a score that is not finite.
    """
    above = (generated[:, None] > real).double() + (generated[:, None] == real).double() / 2
    ours, theirs = above.mean(1, keepdim=True), above.mean(0).unsqueeze(1)
    sums = resampled_means(ours + theirs) if paired else resampled_means(ours) + resampled_means(theirs, seed=1)
    low, high = (float(limit.clamp(0, 1)) for limit in percentile_limits(sums - above.mean()))
    return Estimate(float(above.mean()), low, high, len(generated) + len(real))


def resampled_means(
    values: Float[Tensor, "prompts columns"], *, resamples: int = 2000, seed: int = 0
) -> Float[Tensor, "resamples columns"]:
    """Average columns [P, C], finite, over prompts drawn with replacement, the same for all; [R, C] float64 on the CPU.

    Raises:
        ValueError: If there is no prompt, a value is not finite, or ``resamples`` is below 1.
    """
    number = len(values)
    check_at_least(1, resamples=resamples)
    if number == 0:
        raise ValueError("values must hold at least one prompt, got none.")
    if not bool(values.isfinite().all()):
        raise ValueError(f"values must be finite, got {int((~values.isfinite()).sum())} that are not.")
    rows = values.detach().to("cpu", torch.float64)
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, _DRAWS_AT_ONCE // number)
    means = []
    for start in range(0, resamples, at_once):
        draws = torch.randint(number, (min(at_once, resamples - start), number), generator=generator)
        # How often each prompt was drawn, [r, P]: then all columns are one matrix product.
        once = torch.ones((), dtype=torch.float64).expand(draws.shape)
        counts = torch.zeros(draws.shape, dtype=torch.float64).scatter_add_(1, draws, once)
        means.append(counts @ rows / number)
    return torch.cat(means)


def percentile_limits(
    resampled: Float[Tensor, "resamples columns"], confidence: float = 0.95
) -> tuple[Float[Tensor, " columns"], Float[Tensor, " columns"]]:
    """Return lower and upper limits [C] of the middle share of resamples [R, C]; ValueError if it is not in (0, 1)."""
    check_confidence(confidence)
    low, high = (resampled.quantile((1 + sign * confidence) / 2, dim=0) for sign in (-1, 1))
    return low, high
