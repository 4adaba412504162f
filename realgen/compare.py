"""Compares runs honestly: ``python -m realgen.compare --help``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realgen.checks import printable
from realgen.cli.error_frame import run_command
from realgen.options import OptionParser

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from realgen.benchmark.comparison.comparison import Comparison, PromptMetric, Section

_EXAMPLE = """\
examples:
  python -m realgen.compare runs/diffusion/* runs/mine/*
  python -m realgen.compare outputs/realbench-before outputs/realbench-after --json > comparison.json

Runs of the same config but for the seed are one group; the first group is what the others are held against. All are
compared on the prompts that all have, with the same noise, where all have drawn as many images in training, and again
where all have trained as many seconds (mean over prompts and seeds; between two validations both are interpolated).
The interval of a difference is paired by prompt and covers prompts and seeds; of a group with one seed, prompts only.
Seconds are comparable only on the same machine with nothing else running.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(partial(_compare, arguments), doing="comparing")


def _compare(arguments: Sequence[str] | None) -> int:
    options = parse_arguments(arguments)
    # Imported here, so that --help does not wait for torch.
    from realgen.benchmark.comparison.comparison import compare_runs
    from realgen.benchmark.comparison.runs import read_runs

    runs = [run for folder in options.runs for run in read_runs(folder)]
    comparison = compare_runs(runs, resamples=options.resamples, confidence=options.confidence, seed=options.seed)
    if options.json:
        print(json.dumps(as_json(comparison), indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        # As wide as the tables need: where the output is no terminal it would be 80 columns, with numbers cut in two.
        show(comparison, Console(soft_wrap=True, width=1000, highlight=False))
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(
        prog="python -m realgen.compare",
        description="Compare training runs, or models of RealBench runs: paired by prompt, over seeds, at equal price.",
        epilog=_EXAMPLE,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folder that realgen.fit or realgen.realbench left")
    add("--json", action="store_true", help="print everything as JSON in place of tables")
    add("--confidence", type=float, default=0.95, metavar="X", help="of the intervals (default: %(default)s)")
    add("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: %(default)s)")
    return parser.parse_args(arguments)


def verdicts(metric: PromptMetric, comparison: Comparison) -> list[str]:
    """Return the verdict on each group but the first; it says so where one of the two sides has a single seed."""
    alone = [len(group.runs) == 1 for group in comparison.groups]
    found = [difference.verdict() for difference in metric.differences]
    return [
        f"{said}, of one seed" if said != "not told apart" and (alone[0] or alone[number]) else said
        for number, said in enumerate(found, start=1)
    ]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the whole comparison in a form for ``json.dumps``."""
    found = asdict(comparison)
    found["groups"] = [
        {
            "name": group.name,
            "settings": dict(group.settings),
            "runs": [{"name": run.name, "seed": run.seed} for run in group.runs],
        }
        for group in comparison.groups
    ]
    for section, shown in zip(comparison.sections, found["sections"], strict=True):
        for metric, entry in zip(section.metrics, shown["metrics"], strict=True):
            entry["verdicts"] = verdicts(metric, comparison)
    return found


def show(comparison: Comparison, console: Console) -> None:
    """Print the groups, and a table for each price."""
    from rich.markup import escape

    for group in comparison.groups:
        seeds = ", ".join("?" if run.seed is None else str(run.seed) for run in group.runs)
        number = f"{len(group.runs)} runs, seeds {seeds}" if len(group.runs) > 1 else f"1 run, seed {seeds}"
        console.print(f"[bold]{escape(printable(group.name))}[/]  {number}")
        for run in group.runs:
            console.print(f"   {printable(run.name)}", markup=False)
        for key, value in group.settings.items():
            console.print(printable(f"   {key}: {value}"), markup=False)
    left_out = f"; {comparison.left_out} that only some have are left out" if comparison.left_out else ""
    console.print(f"\n{comparison.prompts} prompts that all have{left_out}")
    console.print(
        f"intervals: {100 * comparison.confidence:g} %, of each metric on its own, over prompts and seeds; "
        "differences are paired by prompt"
    )
    alone = printable(", ".join(group.name for group in comparison.groups if len(group.runs) == 1))
    if alone:
        console.print(
            f"[yellow]one seed in {escape(alone)}: there the intervals cover the choice of prompts, and say nothing "
            "of what another seed would have given[/]"
        )
    for section in comparison.sections:
        console.print()
        console.print(section_title(section))
        for note in section_notes(section):
            console.print(f"[dim]{note}[/]")
        console.print(metric_table(section, comparison))
        if section.corpus_metrics:
            console.print(corpus_table(section, comparison))


def section_title(section: Section) -> str:
    """Return the line above a table: the price that is equal, and the iteration of each run at that price."""
    if section.price is None:
        return "[bold]on the same prompts[/]"
    unit = "images drawn in training" if section.price == "images" else "seconds of training"
    stood = (", ".join(f"{iteration:.4g}" for iteration in group) for group in section.iterations)
    return f"[bold]at {section.at:,.0f} {unit} each[/] (iterations {' | '.join(stood)})"


def section_notes(section: Section) -> list[str]:
    """Return the reservations under which the numbers of a table hold."""
    notes = []
    if section.interpolated:
        notes.append("a run that stood between two validations is interpolated")
    if section.price == "seconds":
        notes.append("seconds are comparable only on the same machine with nothing else running")
    return notes


def metric_table(section: Section, comparison: Comparison) -> Table:
    """Return the table of the metrics that every image has; higher is better in all of them."""
    from realgen.tables import VERDICT_STYLES, Cell, styled, terminal_table

    names = [group.name for group in comparison.groups]
    differences = [heading for name in names[1:] for heading in (f"{name} - {names[0]}", "")]
    rows = []
    for metric in section.metrics:
        cells: list[Cell] = [metric.name, *(f"{value.value:.3f}" for value in metric.values)]
        for difference, said in zip(metric.differences, verdicts(metric, comparison), strict=True):
            cells += [difference.text("+.3f"), *styled(VERDICT_STYLES[difference.verdict()], said)]
        rows.append(cells)
    headings = ["metric (higher is better)", *names, *differences]
    texts = [column for column, heading in enumerate(headings) if column == 0 or not heading]
    return terminal_table(headings, rows, text_columns=texts, framed=False)


def corpus_table(section: Section, comparison: Comparison) -> Table:
    """Return the table of corpus metrics: mean over the seeds and their range; no interval, so no verdict."""
    from realgen.tables import terminal_table

    names = [group.name for group in comparison.groups]
    several = [", mean (range over seeds)" if len(group.runs) > 1 else "" for group in comparison.groups]
    headings = ["metric of all images together", *(f"{n}{s}" for n, s in zip(names, several, strict=True))]
    directions = {True: " (higher is better)", False: " (lower is better)", None: ""}
    rows = []
    for metric in section.corpus_metrics:
        means = [sum(values) / len(values) for values in metric.seeds]
        cells = [
            f"{mean:.3f}" + (f" ({min(values):.3f} to {max(values):.3f})" if values[1:] else "")
            for mean, values in zip(means, metric.seeds, strict=True)
        ]
        differences = [f"{mean - means[0]:+.3f}" for mean in means[1:]]
        rows.append([metric.name + directions[metric.higher_is_better], *cells, *differences])
    return terminal_table([*headings, *(f"{name} - {names[0]}" for name in names[1:])], rows, framed=False)


if __name__ == "__main__":
    sys.exit(main())
