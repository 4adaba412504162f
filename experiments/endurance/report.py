"""The table of a harness run, for the terminal and for a page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.endurance.kills import Case

HEADINGS = ("what was done", "cases", "as it should be", "on")
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"


def counts(cases: Sequence[Case], day: str) -> list[tuple[str, ...]]:
    """Return kind, number of cases, number of those without a fault, and the day; in the order of the kinds."""
    faults: dict[str, list[bool]] = {}
    for case in cases:
        faults.setdefault(case.kind, []).append(bool(case.faults))
    return [(kind, str(len(each)), str(each.count(False)), day) for kind, each in faults.items()]


def show(cases: Sequence[Case], page: Path | None, day: str | None = None) -> None:
    """Print the table, and put its rows into that of a page, between two marks; rows of other kinds stay.

    Args:
        cases: What was done.
        page: In Markdown; None: only print.
        day: Today, unless given.
    """
    rows = counts(cases, day or date.today().isoformat())
    table = Table(*HEADINGS)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if page is not None:
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        old, _, after = rest.partition(END)
        lines = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in old.splitlines()[2:]]
        kept = {line[0]: line for line in [*lines, *rows]}
        table_lines = [HEADINGS, ("---", "---:", "---:", "---"), *kept.values()]
        text = "".join(f"| {' | '.join(line)} |\n" for line in table_lines)
        page.write_text(before + BEGIN + text + END + after, encoding="utf-8")
