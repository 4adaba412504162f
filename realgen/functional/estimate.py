"""One number with its confidence interval: the record that bootstrap, arena, tables and reports share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Verdict = Literal["better", "worse", "not told apart"]


def none_if_nan(value: float) -> float | None:
    """Return the number; None for NaN, which JSON does not know."""
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class Estimate:
    """A number, and between what limits it would lie had other prompts of the same kind been drawn."""

    value: float | None
    """The estimate; None where it could not be computed."""
    low: float | None = None
    """Lower limit; None where there is none, as of the mean of one prompt or a metric of all images together."""
    high: float | None = None
    """Upper limit; None together with the lower one."""
    count: int = 0
    """Prompts or images that it is of."""
    higher_is_better: bool | None = None
    """None where it is not known."""

    @property
    def has_limits(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None

    def verdict(self, *, higher_is_better: bool = True) -> Verdict:
        """Return whether this difference is an improvement, which only an interval without 0 tells."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "not told apart"
        return "better" if (self.low > 0) == higher_is_better else "worse"

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate in another unit: value and limits multiplied by ``factor``."""
        value, low, high = (None if end is None else factor * end for end in (self.value, self.low, self.high))
        return replace(self, value=value, low=low, high=high)

    def text(self, form: str = ".3f", unit: str = "") -> str:
        """Return value and limits as text; the value alone where there are no limits, ``-`` where there is no value.

        Each number has the ``format`` ``form``; ``unit`` is written behind the value.
        """
        if self.value is None:
            return "-"
        limits = f" [{self.low:{form}}, {self.high:{form}}]" if self.has_limits else ""
        return f"{self.value:{form}}{unit}{limits}"
