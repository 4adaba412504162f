"""The table of a run's summary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.table import Table
from rich.text import Text
from scipy.special import stdtrit

from realgen.functional.bootstrap import bootstrap_mean
from realgen.functional.estimate import Estimate, Verdict
from realgen.metrics.base import jackknife_error
from realgen.tables import VERDICT_STYLES, Cell, styled, terminal_table

TITLE = "held-out prompts; the interval of a change is over prompts, paired, of this seed"


@dataclass(frozen=True)
class Comparison:
    """One metric before and after."""

    name: str
    """Name under ``val/``."""
    rewarded: bool
    """Whether the policy was trained on it."""
    before: float
    after: float
    higher_is_better: bool | None
    """None where it is unknown."""
    difference: Estimate
    """After minus before, as ``paired_differences`` gives it."""

    @property
    def verdict(self) -> Verdict | Literal["unknown"]:
        """Return whether it improved."""
        if self.higher_is_better is None or math.isnan(self.before) or math.isnan(self.after):
            return "unknown"
        return self.difference.verdict(higher_is_better=self.higher_is_better)


def paired_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Estimate]:
    """Estimate by how much each metric changed, with its 95 % interval over prompts.

    Args:
        before: Of a validation: ``values`` by metric; ``by_prompt``, of the metrics that are means over images, the
            mean of each prompt by its key, which gives a bootstrap interval; ``without_each``, of the others, the
            value without each group of prompts, which gives jackknife errors, taken as often to each side as Student's
            t of one degree of freedom less than groups asks for.
        after: The same of a later validation. Prompts without a finite value in both are left out.
    """
    found = {}
    for name in before["values"].keys() & after["values"].keys():
        # A checkpoint of an earlier version has neither.
        old, new = (each.get("by_prompt", {}).get(name, {}) for each in (before, after))
        changes = [new[key] - old[key] for key in sorted(old.keys() & new.keys())]
        finite = [change for change in changes if math.isfinite(change)]
        if finite:
            found[name] = bootstrap_mean(torch.tensor(finite, dtype=torch.float64))
            continue
        one, two = (torch.tensor(each.get("without_each", {}).get(name, [])) for each in (before, after))
        change, error = after["values"][name] - before["values"][name], math.nan
        keys = [each.get("by_prompt", {}).get("reward", {}).keys() for each in (before, after)]
        if len(one) == len(two) and keys[0] == keys[1]:  # of other prompts the values do not pair
            error = stdtrit(len(one) - 1, 0.975) * jackknife_error(two.double() - one.double())
        told = math.isfinite(error)
        found[name] = Estimate(change, change - error if told else None, change + error if told else None, len(one))
    return found


def compare(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    higher_is_better: Mapping[str, bool | None],
    differences: Mapping[str, Estimate],
) -> list[Comparison]:
    """Pair the metrics of two validations: rewards first (higher is always better), then the others.

    Names that only one validation has are left out. ``higher_is_better`` is of the metrics that are no rewards.

    Example:
        >>> before, after = {"reward": 0.1, "kid": 2.0}, {"reward": 0.2, "kid": 3.0}
        >>> found = compare(
        ...     before, after, higher_is_better={"kid": False}, differences={"reward": Estimate(0.1, 0.05, 0.2)}
        ... )
        >>> [comparison.verdict for comparison in found]
        ['better', 'not told apart']
    """
    rewarded = {name: name.split("/")[0] == "reward" for name in before if name in after}
    found = []
    for name, is_reward in sorted(rewarded.items(), key=lambda item: (not item[1], item[0])):
        higher, difference = True if is_reward else higher_is_better.get(name), differences.get(name, Estimate(None))
        found.append(Comparison(name, is_reward, before[name], after[name], higher, difference))
    return found


def summary_table(comparisons: list[Comparison], *, before: int | None, after: int) -> Table:
    """Return the comparisons as a table for the terminal, under the iterations; without ``before`` the last alone."""
    headings: list[Cell] = ["metric", f"iteration {after}"]
    if before is not None:  # in 80 columns, names and numbers are not cut
        headings[1:] = [*(Text(f"iteration\n{each}") for each in (before, after)), "change", "its 95 % interval"]
    rows: list[list[Cell]] = []
    for index, comparison in enumerate(comparisons):
        if index == 0 or comparison.rewarded != comparisons[index - 1].rewarded:
            rows.append(styled("bold", "rewarded" if comparison.rewarded else "never rewarded"))
        if before is None:
            rows.append([f"  {comparison.name.removeprefix('reward/')}", number(comparison.after)])
            continue
        change = comparison.after - comparison.before
        told = comparison.verdict in ("better", "worse")
        arrow = ("↑ " if change > 0 else "↓ ") if told else ""
        difference = comparison.difference
        ends = [number(end) for end in (difference.low, difference.high) if end is not None]
        numbers = (number(comparison.before), number(comparison.after), ("+" if change > 0 else "") + number(change))
        verdict = Text(f"{arrow}{comparison.verdict}", VERDICT_STYLES[comparison.verdict])
        cell = Text("\n").join([verdict, *([Text(f"[{', '.join(ends)}]")] if ends else [])])
        rows.append([f"  {comparison.name.removeprefix('reward/')}", *numbers, cell])
    return terminal_table(headings, rows, title=TITLE, text_columns=(0, 4))


def number(value: float) -> str:
    """Write a number in three significant digits, or three places where it is between 0.1 and 100; NaN as nothing.

    Example:
        >>> number(0.25), number(0.0012345), number(12.3456)
        ('0.250', '0.00123', '12.346')
    """
    if math.isnan(value):
        return ""
    return f"{value:.3f}" if 0.1 <= round(abs(value), 3) < 100 or value == 0 else f"{value:.3g}"
