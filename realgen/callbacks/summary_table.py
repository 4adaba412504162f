"""The table of a run's summary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

Verdict = Literal["better", "worse", "same", "unknown"]
COLORS = {"better": "green", "worse": "red", "same": "dim", "unknown": "dim"}


@dataclass(frozen=True)
class Comparison:
    """One measure before and after."""

    name: str
    """Name under ``val/``."""
    rewarded: bool
    """Whether the policy was trained on it."""
    before: float
    """First validation."""
    after: float
    """Last validation."""
    higher_is_better: bool | None
    """None where nobody says."""

    @property
    def verdict(self) -> Verdict:
        """Which way it went; "same" where three digits show no difference."""
        if self.higher_is_better is None or math.isnan(self.before) or math.isnan(self.after):
            return "unknown"
        if number(self.before) == number(self.after):
            return "same"
        return "better" if (self.after > self.before) == self.higher_is_better else "worse"


def compare(
    before: Mapping[str, float], after: Mapping[str, float], *, higher_is_better: Mapping[str, bool | None]
) -> list[Comparison]:
    """Pair the measures of two validations: rewards first (higher is better, always), then the others.

    Args:
        before: Measures by name; ``reward`` and ``reward/<part>`` are the rewards.
        after: The same of a later validation; names that only one of them has are left out.
        higher_is_better: Of the measures that are no rewards.

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
    """The comparisons as a table of one screen.

    Args:
        comparisons: In the order to show.
        before: Iteration of the first validation.
        after: Iteration of the last one.
    """
    table = Table(title="held-out prompts", title_justify="left")
    table.add_column("measure")
    for heading in (f"iteration {before}", f"iteration {after}", "change"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for index, comparison in enumerate(comparisons):
        if index == 0 or comparison.rewarded != comparisons[index - 1].rewarded:
            table.add_row(f"[bold]{'rewarded' if comparison.rewarded else 'never rewarded'}[/]")
        change = comparison.after - comparison.before
        arrow = "=" if comparison.verdict == "same" else "?" if math.isnan(change) else "↑" if change > 0 else "↓"
        table.add_row(
            f"  {comparison.name.removeprefix('reward/')}",
            number(comparison.before),
            number(comparison.after),
            ("+" if change > 0 else "") + number(change),
            f"[{COLORS[comparison.verdict]}]{arrow} {comparison.verdict}[/]",
        )
    return table


def number(value: float) -> str:
    """A number in three significant digits, or three places where it is between 0.1 and 100.

    Example:
        >>> number(0.25), number(0.0012345), number(12.3456)
        ('0.250', '0.00123', '12.346')
    """
    return f"{value:.3f}" if 0.1 <= round(abs(value), 3) < 100 or value == 0 else f"{value:.3g}"
