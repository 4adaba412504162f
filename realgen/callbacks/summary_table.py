"""The table of a run's summary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from realgen.tables import Cell, styled, terminal_table

Verdict = Literal["better", "worse", "same", "unknown"]
COLORS = {"better": "green", "worse": "red", "same": "dim", "unknown": "dim"}


@dataclass(frozen=True)
class Comparison:
    """One metric before and after."""

    name: str
    """Name under ``val/``."""
    rewarded: bool
    """Whether the policy was trained on it."""
    before: float
    """First validation."""
    after: float
    """Last validation."""
    higher_is_better: bool | None
    """None where it is unknown."""

    @property
    def verdict(self) -> Verdict:
        """Return whether it improved; "same" where three digits show no difference."""
        if self.higher_is_better is None or math.isnan(self.before) or math.isnan(self.after):
            return "unknown"
        if number(self.before) == number(self.after):
            return "same"
        return "better" if (self.after > self.before) == self.higher_is_better else "worse"


def compare(
    before: Mapping[str, float], after: Mapping[str, float], *, higher_is_better: Mapping[str, bool | None]
) -> list[Comparison]:
    """Pair the metrics of two validations: rewards first (higher is always better), then the others.

    Args:
        before: Metrics by name; ``reward`` and ``reward/<component>`` are the rewards.
        after: The same of a later validation; names that only one of them has are left out.
        higher_is_better: Of the metrics that are no rewards.

    Example:
        >>> before, after = {"reward": 0.1, "kid": 2.0}, {"reward": 0.2, "kid": 3.0}
        >>> [comparison.verdict for comparison in compare(before, after, higher_is_better={"kid": False})]
        ['better', 'worse']
    """
    rewarded = {name: name.split("/")[0] == "reward" for name in before if name in after}
    return [
        Comparison(name, is_reward, before[name], after[name], True if is_reward else higher_is_better.get(name))
        for name, is_reward in sorted(rewarded.items(), key=lambda item: (not item[1], item[0]))
    ]


def summary_table(comparisons: list[Comparison], *, before: int, after: int) -> Table:
    """Return the comparisons as a table for the terminal.

    Args:
        comparisons: In the order to show.
        before: Iteration of the first validation.
        after: Iteration of the last one.
    """
    headings = ["metric", f"iteration {before}", f"iteration {after}", "change", ""]
    rows: list[list[Cell]] = []
    for index, comparison in enumerate(comparisons):
        if index == 0 or comparison.rewarded != comparisons[index - 1].rewarded:
            rows.append(styled("bold", "rewarded" if comparison.rewarded else "never rewarded"))
        change = comparison.after - comparison.before
        arrow = "=" if comparison.verdict == "same" else "?" if math.isnan(change) else "↑" if change > 0 else "↓"
        numbers = (number(comparison.before), number(comparison.after), ("+" if change > 0 else "") + number(change))
        verdict = styled(COLORS[comparison.verdict], f"{arrow} {comparison.verdict}")
        rows.append([f"  {comparison.name.removeprefix('reward/')}", *numbers, *verdict])
    return terminal_table(headings, rows, title="held-out prompts", text_columns=(0, 4))


def number(value: float) -> str:
    """Write a number in three significant digits, or three places where it is between 0.1 and 100.

    Example:
        >>> number(0.25), number(0.0012345), number(12.3456)
        ('0.250', '0.00123', '12.346')
    """
    return f"{value:.3f}" if 0.1 <= round(abs(value), 3) < 100 or value == 0 else f"{value:.3g}"
