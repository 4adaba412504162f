"""How sure a mean is: percentile bootstrap over prompts, of one column, of many, and of paired differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_DRAWS_AT_ONCE = 2**22
"""Random rows held in memory at a time; 32 MiB of indices."""


@dataclass(frozen=True)
class Interval:
    """A number, and between what limits it would lie had other prompts of the same kind been drawn."""

    value: float
    """The estimate."""
    low: float | None
    """Lower limit; None where there is none to be had, as of the mean of one prompt."""
    high: float | None
    """Upper limit; None together with the lower one."""
    number: int
    """Prompts that counted."""
    dropped: int = 0
    """Prompts that were NaN, and were left out because that was asked for."""

    def __str__(self) -> str:
        """Value and limits, with three digits behind the point; the value alone where there are no limits."""
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(
    values: Float[Tensor, " prompts"],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    nan: Literal["refuse", "drop"] = "refuse",
) -> Interval:
    """Interval of a mean over prompts, by resampling prompts with replacement (Efron 1979).

    The limits are the percentiles (1 -+ confidence) / 2 of the resampled means. They are too narrow for few prompts
    (n < 20 or so), by about the factor sqrt((n - 1) / n), and say nothing of other seeds or of a judge's own noise.
    One prompt says nothing of how prompts differ, so it has no limits. Of shares see ``functional.proportion``.

    Args:
        values: [P] one number per prompt. Rows must be independent: average over the images of a prompt first.
        resamples: How often the prompts are drawn anew, >= 1.
        confidence: Share of resamples between the limits, in (0, 1).
        seed: Of the draws; the same seed and number of prompts draw the same prompts, whatever the values.
        nan: Whether prompts with NaN are an error, or are left out and counted in ``dropped``.

    Returns:
        Mean and limits, in the unit of ``values``; no limits where one prompt counts.

    Raises:
        ValueError: If there is no prompt, one is NaN and that is refused, one is infinite, or a number is out of range.

    Example:
        >>> print(bootstrap_mean(torch.tensor([0.0, 1.0, 1.0, 1.0])))
        0.750 [0.250, 1.000]
    """
    kept = _kept(values.isnan(), nan)
    means = resampled_means(values[kept].unsqueeze(1), resamples=resamples, seed=seed)
    low, high = percentile_limits(means, confidence)
    value, number, dropped = float(values[kept].double().mean()), int(kept.sum()), int((~kept).sum())
    if number == 1:
        return Interval(value, None, None, number, dropped)
    return Interval(value, float(low), float(high), number, dropped)


def bootstrap_difference(
    first: Float[Tensor, " prompts"],
    second: Float[Tensor, " prompts"],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    nan: Literal["refuse", "drop"] = "refuse",
) -> Interval:
    """Interval of the mean of first - second, where both were measured on the same prompts.

    Pairing takes the difficulty of the prompts out, so the interval is narrower than that of two means apart. Where it
    holds 0, the two cannot be told apart at this confidence.

    Args:
        first: [P] one number per prompt.
        second: [P] of the same prompts, in the same order.
        resamples: How often the prompts are drawn anew, >= 1.
        confidence: Share of resamples between the limits, in (0, 1).
        seed: Of the draws.
        nan: Whether a prompt that is NaN on either side is an error, or is left out of both and counted.

    Returns:
        Mean difference and limits.

    Raises:
        ValueError: As ``bootstrap_mean`` does, or if the two are not of one length.

    Example:
        >>> print(bootstrap_difference(torch.tensor([0.5, 1.5]), torch.tensor([0.0, 1.0])))
        0.500 [0.500, 0.500]
    """
    if first.shape != second.shape:
        raise ValueError(f"second must have one value per prompt of first, {len(first)}, got {len(second)}.")
    differences = first.double() - second.double()
    return bootstrap_mean(differences, resamples=resamples, confidence=confidence, seed=seed, nan=nan)


def resampled_means(
    values: Float[Tensor, "prompts columns"], *, resamples: int = 2000, seed: int = 0
) -> Float[Tensor, "resamples columns"]:
    """Means of columns over prompts that are drawn with replacement, the same prompts for all columns.

    Args:
        values: [P, C] a row per prompt; finite.
        resamples: R, >= 1.
        seed: Of the draws.

    Returns:
        [R, C] float64, on the CPU.

    Raises:
        ValueError: If there is no prompt, a value is not finite, or ``resamples`` is below 1.

    Example:
        >>> resampled_means(torch.full((3, 2), 0.5), resamples=2)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]], dtype=torch.float64)
    """
    number = len(values)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}.")
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
    """Between what limits the middle share of the resamples lies, for each column.

    Args:
        resampled: [R, C].
        confidence: That share, in (0, 1).

    Returns:
        Lower and upper limits, [C] each.

    Raises:
        ValueError: If ``confidence`` is not between 0 and 1.

    Example:
        >>> percentile_limits(torch.arange(11.0).unsqueeze(1), confidence=0.8)
        (tensor([1.]), tensor([9.]))
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, both excluded, got {confidence}.")
    low, high = (resampled.quantile((1 + sign * confidence) / 2, dim=0) for sign in (-1, 1))
    return low, high


def _kept(missing: Bool[Tensor, " prompts"], nan: Literal["refuse", "drop"]) -> Bool[Tensor, " prompts"]:
    """Which prompts count.

    Raises:
        ValueError: If one is missing and that is refused, or all are.
    """
    number = int(missing.sum())
    if number and nan == "refuse":
        raise ValueError(f"values must not be NaN, got {number} of {len(missing)}; nan='drop' leaves them out.")
    if number and number == len(missing):
        raise ValueError(f"values must hold at least one prompt that is not NaN, got {number} that all are.")
    return ~missing
