"""The results as tables, the same ones on the terminal, in Markdown and in the page."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from rich.console import Console

from realgen.benchmark.results import CHECKS, ModelResults, Results
from realgen.functional.bootstrap import bootstrap_mean
from realgen.functional.estimate import Estimate
from realgen.tables import Cell, markdown_table, one_line, styled, terminal_table

SHOWN_CHECKS = ("auroc", "accuracy", "calibration_error")
WEAK_AUROC = 0.6
"""Below it a detector does not tell a model's images from real images; below 1 - ``WEAK_AUROC`` it is inverted on them:
it takes them for real images, and real images for generated, more often than the other way round."""
INTERVALS = (
    "The interval in brackets is that of other prompts of the same kind; a number without one is of a single prompt, "
    "of all images together, or has none that could be computed."
)


class Table(NamedTuple):
    """A table of texts."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    """Columns that are flush left, from the first one on; the others are numbers."""


def cells(scores: Sequence[Estimate | None]) -> list[str]:
    """Write scores side by side, with any intervals, in the digits of the largest; three decimals where it is small."""
    known = [score for score in scores if score is not None]
    largest = max((abs(end) for s in known for end in (s.value, s.low, s.high) if end is not None), default=0.0)
    form = ".3f" if largest < 10 else ".1f" if largest < 1000 else ".0f"
    return ["-" if score is None else score.text(form) for score in scores]


def arrow(scores: Iterable[Estimate | None]) -> str:
    """Return a sign for which way is better; empty where that is not known."""
    directions = {score.higher_is_better for score in scores if score is not None}
    return "↑" if directions == {True} else "↓" if directions == {False} else ""


def score_names(results: Results) -> list[str]:
    """Return the names of all scores, in the order of the first model that has them."""
    return list(dict.fromkeys(name for model in everyone(results) for name in model.scores))


def everyone(results: Results) -> list[ModelResults]:
    """Return the real images, if there are any, and the models."""
    return [*([] if results.real is None else [results.real]), *results.models]


def scores(results: Results) -> Table:
    """Show every score of every model, over all prompts."""
    rows = []
    for name in score_names(results):
        found = [model.scores.get(name) for model in everyone(results)]
        rows.append((f"{name} {arrow(found)}".strip(), *cells(found)))
    return Table("Mean over all prompts", ["score", *(model.name for model in everyone(results))], rows)


def grids(results: Results, names: Sequence[str]) -> list[Table]:
    """Show scores by category, of those that have categories and models that have them in one."""
    sets, tables = everyone(results), []
    categories = list(dict.fromkeys(category for model in sets for category in model.categories))
    for name in names:
        found = {model.name: [model.categories.get(each, {}).get(name) for each in categories] for model in sets}
        shown = {model: column for model, column in found.items() if any(score is not None for score in column)}
        if shown:
            sign = arrow(model.scores.get(name) for model in sets)
            texts = iter(cells([score for row in zip(*shown.values(), strict=True) for score in row]))
            rows = [(category, *(next(texts) for _ in shown)) for category in categories]
            tables.append(Table(f"{name} {sign} by category".replace("  ", " "), ["category", *shown], rows))
    return tables


def checks(results: Results, measures: Sequence[str] = tuple(CHECKS)) -> Table:
    """Show how well each detector tells each model's images from the real ones; no rows without real images."""
    rows = [
        (detector, model.name, *(cells([model.checks[detector].get(measure)])[0] for measure in measures))
        for detector in results.detectors
        for model in results.models
        if detector in model.checks
    ]
    headings = ["detector", "model", *(CHECKS[measure][0] for measure in measures)]
    return Table("Each model's images against the real images of the same prompts", headings, rows, text_columns=2)


def print_tables(results: Results, console: Console) -> None:
    """Print scores and checks; of a score the ``best_model`` is bold, where one is better than each other one."""
    shown = scores(results)
    rows: list[list[Cell]] = []
    for name, (line, *texts) in zip(score_names(results), shown.rows, strict=True):
        best = best_model(results, name)
        styles = ("bold" if model.name == best else "" for model in everyone(results))
        rows.append([line, *(styled(style, text)[0] for style, text in zip(styles, texts, strict=True))])
    console.print(terminal_table(shown.headings, rows, title=f"RealBench, {_count(results)} prompts"))
    told = checks(results, SHOWN_CHECKS)
    if told.rows:
        console.print(terminal_table(told.headings, told.rows, title=told.caption, text_columns=(0, 1)))


def remarks(results: Results) -> list[str]:
    """Say of which detectors' scores a reader must beware."""
    found = []
    for model in results.models:
        for detector, checks in model.checks.items():
            auroc = checks["auroc"].value
            if auroc is not None and auroc < 1 - WEAK_AUROC:
                found.append(
                    f"{detector} is inverted on {model.name}'s images (AUROC {auroc:.2f}): it finds them more real "
                    "than the real images of the same prompts. A high score here is the detector's error, not realism."
                )
            elif auroc is not None and auroc < WEAK_AUROC:
                found.append(
                    f"{detector} hardly tells {model.name}'s images from the real images (AUROC {auroc:.2f}): they are "
                    "as real to it, or it sees nothing in images of this kind; its score cannot say which."
                )
    return found


def markdown(results: Results) -> str:
    """Write the results as a Markdown document: scores, detectors' checks, categories, settings."""
    parts = ["# RealBench", "", f"{_count(results)} prompts. {INTERVALS}"]
    for table in (scores(results), checks(results), *grids(results, score_names(results))):
        if table.rows:
            parts += ["", f"## {one_line(table.caption)}", "", markdown_table(table.headings, table.rows)]
    notes = [*remarks(results), *results.settings.get("warnings", ())]
    if notes:
        parts += ["", "## Remarks", "", *(f"- {one_line(note)}" for note in notes)]
    settings = ((name, value) for name, value in results.settings.items() if name not in ("config", "warnings"))
    parts += ["", "## Settings", "", *(f"- {name}: `{one_line(str(value))}`" for name, value in settings)]
    return "\n".join(parts) + "\n"


def best_model(results: Results, name: str) -> str | None:
    """Return the model that is better than each other one; higher is better in what every image has.

    Better: the 95 % interval of the difference, paired by prompt, holds no zero. None where no model is, and for scores
    of all images together, and those of the arena, which no image has.
    """
    by_prompt: dict[str, dict[str, float]] = {model.name: {} for model in results.models}
    for row in results.rows:
        if row.model in by_prompt and (value := row.values.get(name)) is not None:
            by_prompt[row.model][row.name] = value

    def is_better(model: str, other: str) -> bool:
        keys = sorted(by_prompt[model].keys() & by_prompt[other].keys())
        changes = [by_prompt[model][key] - by_prompt[other][key] for key in keys]
        return bool(changes) and bootstrap_mean(torch.tensor(changes, dtype=torch.float64)).verdict() == "better"

    models = [each for each in by_prompt if all(is_better(each, other) for other in by_prompt if other != each)]
    return models[0] if len(by_prompt) > 1 and models else None


def _count(results: Results) -> int:
    return max((score.count for model in everyone(results) for score in model.scores.values()), default=0)
