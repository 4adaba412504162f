"""A comparison as tables: on the terminal, in a page, as JSON, CSV and LaTeX."""

import re
from collections.abc import Iterator
from dataclasses import asdict
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape

from realgen.benchmark.comparison.comparison import Comparison, CorpusMetric, PromptMetric, Section
from realgen.benchmark.report.tables import Table
from realgen.checks import printable
from realgen.functional.estimate import Estimate
from realgen.tables import VERDICT_STYLES, one_line, styled, terminal_table

_ONE_SEED = ", of one seed"


def verdicts(metric: PromptMetric, comparison: Comparison) -> list[str]:
    """Return the verdict on each group but the first; it says so where one of the two sides has a single seed."""
    alone = [len(group.runs) == 1 for group in comparison.groups]
    found = [difference.verdict() for difference in metric.differences]
    return [
        f"{said}{_ONE_SEED}" if said != "not told apart" and (alone[0] or alone[number]) else said
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
    for group in comparison.groups:
        seeds = ", ".join("?" if run.seed is None else str(run.seed) for run in group.runs)
        number = f"{len(group.runs)} runs, seeds {seeds}" if len(group.runs) > 1 else f"1 run, seed {seeds}"
        console.print(f"[bold]{escape(printable(group.name))}[/]  {number}")
        for run in group.runs:
            console.print(f"   {printable(run.name)}", markup=False)
        for key, value in group.settings.items():
            console.print(printable(f"   {key}: {value}"), markup=False)
    console.print()
    console.print(_prompts(comparison), highlight=False, markup=False)
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
        console.print(f"[bold]{section_title(section)}[/]")
        if section.interpolated:
            console.print("[dim]a run that stood between two validations is interpolated[/]")
        if section.price == "seconds":
            console.print("[dim]seconds are comparable only on the same machine with nothing else running[/]")
        for table in (metric_table(section, comparison), corpus_table(section, comparison)):
            if table.rows:
                texts = [column for column, heading in enumerate(table.headings) if column == 0 or not heading]
                rows = [
                    [styled(VERDICT_STYLES.get(cell.removesuffix(_ONE_SEED), ""), cell)[0] for cell in row]
                    for row in table.rows
                ]
                console.print(terminal_table(table.headings, rows, text_columns=texts, framed=False))


def _prompts(comparison: Comparison) -> str:
    lacking = f" ({', '.join(comparison.lacking)} lack some)" if comparison.left_out else ""
    left_out = f"; {comparison.left_out} that only some have are left out{lacking}" if comparison.left_out else ""
    return printable(f"{comparison.prompts} prompts that all have{left_out}")


def section_title(section: Section) -> str:
    """Return the line above a table: the price that is equal, and the iteration of each run at that price."""
    if section.price is None:
        return "on the same prompts"
    unit = "images drawn in training" if section.price == "images" else "seconds of training"
    stood = (", ".join(f"{iteration:.4g}" for iteration in group) for group in section.iterations)
    return f"at {section.at:,.0f} {unit} each (iterations {' | '.join(stood)})"


def metric_table(section: Section, comparison: Comparison) -> Table:
    """Return the table of the metrics that every image has; higher is better in all of them."""
    names = [group.name for group in comparison.groups]
    differences = [heading for name in names[1:] for heading in (f"{name} - {names[0]}", "")]
    rows = []
    for metric in section.metrics:
        cells = [metric.name, *(f"{value.value:.3f}" for value in metric.values)]
        for difference, said in zip(metric.differences, verdicts(metric, comparison), strict=True):
            cells += [difference.text("+.3f"), said]
        rows.append(cells)
    return Table(section_title(section), ["metric (higher is better)", *names, *differences], rows)


def corpus_table(section: Section, comparison: Comparison) -> Table:
    """Return the table of corpus metrics: mean over the seeds and their range; no interval, so no verdict."""
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
    return Table(section_title(section), [*headings, *(f"{name} - {names[0]}" for name in names[1:])], rows)


def tables(comparison: Comparison) -> list[Table]:
    """Return all tables, of each price those of the metrics of images first."""
    found = [make(section, comparison) for section in comparison.sections for make in (metric_table, corpus_table)]
    return [table for table in found if table.rows]


def csv_rows(comparison: Comparison) -> Iterator[list[object]]:
    """Yield the headings, then a row for each price, metric and group; what is not known is None."""
    yield ["price", "at", "metric", "group", "seeds", "value", "low", "high", "change", "change_low", "change_high"]
    for section in comparison.sections:
        metrics: list[PromptMetric | CorpusMetric] = [*section.metrics, *section.corpus_metrics]
        for metric in metrics:
            for number, group in enumerate(comparison.groups):
                seeds = metric.seeds[number]
                mean, change = Estimate(fmean(seeds)), Estimate(fmean(seeds) - fmean(metric.seeds[0]))
                if isinstance(metric, PromptMetric):
                    mean, change = metric.values[number], metric.differences[number - 1]
                shown = (mean, change if number else Estimate(None))
                limits = [end for each in shown for end in (each.value, each.low, each.high)]
                yield [section.price, section.at, metric.name, group.name, len(seeds), *limits]


def latex(table: Table) -> str:
    """Write a table for a paper that uses booktabs."""
    head, *body = (" & ".join(map(_latex_text, row)) + r" \\" for row in (table.headings, *table.rows))
    columns = "".join("r" if column and heading else "l" for column, heading in enumerate(table.headings))
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"])


def _latex_text(text: str) -> str:
    named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\~^#$%&_{}]", lambda found: named.get(found[0], f"\\{found[0]}"), one_line(text))
