"""The results as tables: on the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from realgen.benchmark.results import ModelResults, Results
from realgen.functional.estimate import Estimate
from realgen.tables import markdown_table, styled, terminal_table

TABLE_FILE = "results.md"
SHOWN_CHECKS = ("auroc", "accuracy", "calibration_error")
WEAK_AUROC = 0.6
"""Below it a detector does not tell a model's images from real images; below 1 - ``WEAK_AUROC`` it is inverted on them:
it takes them for real images, and real images for generated, more often than the other way round."""
INTERVALS = (
    "The interval in brackets is that of other prompts of the same kind; a number without one is of a single prompt, "
    "of all images together, or has none that could be told."
)


def cell(score: Estimate | None) -> str:
    """A score with its interval, three digits behind the point where it is small; the value alone where it has none.

    Example:
        >>> cell(Estimate(47.2, 45.12, 49.26)), cell(Estimate(0.1234)), cell(Estimate(None)), cell(None)
        ('47.2 [45.1, 49.3]', '0.123', '-', '-')
    """
    return cells([score])[0]


def cells(scores: Sequence[Estimate | None]) -> list[str]:
    """Scores that are read side by side, as ``cell`` writes one, all with the digits of the largest.

    Example:
        >>> cells([Estimate(4.25, 2.0, 9.5), None, Estimate(12.0, 8.0, 16.5)])
        ['4.2 [2.0, 9.5]', '-', '12.0 [8.0, 16.5]']
    """
    known = [score for score in scores if score is not None]
    largest = max((abs(end) for s in known for end in (s.value, s.low, s.high) if end is not None), default=0.0)
    form = ".3f" if largest < 10 else ".1f" if largest < 1000 else ".0f"
    return ["-" if score is None else score.text(form) for score in scores]


def arrow(scores: Iterable[Estimate | None]) -> str:
    """Which way is better, as a sign; empty where nobody says."""
    directions = {score.higher_is_better for score in scores if score is not None}
    return "↑" if directions == {True} else "↓" if directions == {False} else ""


def score_names(results: Results) -> list[str]:
    """Names of all scores, in the order of the first model that has them."""
    return list(dict.fromkeys(name for model in everyone(results) for name in model.scores))


def everyone(results: Results) -> list[ModelResults]:
    """The real images, if there are any, and the models."""
    return [*([] if results.real is None else [results.real]), *results.models]


def score_table(results: Results) -> Table:
    """Scores over all prompts, for the terminal: one line per score, one column per model.

    The best model of a line is bold, where one is better than the others.
    """
    rows = []
    for name in score_names(results):
        scores = [model.scores.get(name) for model in everyone(results)]
        best = _best(model.scores.get(name) for model in results.models) if len(results.models) > 1 else None
        texts = zip(scores, cells(scores), strict=True)
        shown = (styled("bold" if best is not None and score is best else "", text)[0] for score, text in texts)
        rows.append([f"{name} {arrow(scores)}".strip(), *shown])
    headings = ["score", *(model.name for model in everyone(results))]
    return terminal_table(headings, rows, title=f"RealBench, {_count(results)} prompts")


def check_table(results: Results) -> Table | None:
    """How well the detectors tell each model's images from the real images; None without real images."""
    if not any(model.checks for model in results.models):
        return None
    rows = []
    for detector in results.detectors:
        for row, check in enumerate(SHOWN_CHECKS):
            values = (cell(model.checks.get(detector, {}).get(check)) for model in results.models)
            rows.append([detector if row == 0 else "", check, *values])
    headings = ["detector", "measure", *(model.name for model in results.models)]
    title = "can the detectors tell them from the real images?"
    return terminal_table(headings, rows, title=title, text_columns=(0, 1))


def remarks(results: Results) -> list[str]:
    """What a reader of the tables must know."""
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
    """The results as a Markdown document: scores, detectors' checks, categories, settings."""
    names, sets = score_names(results), everyone(results)
    parts = ["# RealBench", "", f"{_count(results)} prompts. {INTERVALS}", ""]
    columns = [cells([model.scores.get(name) for model in sets]) for name in names]
    parts.append(markdown_table(["model", *names], ([m.name, *t] for m, *t in zip(sets, *columns, strict=True))))
    if any(model.checks for model in results.models):
        parts += ["", "## Can the detectors tell them from the real images?", ""]
        checks = [(m, d, c) for m in results.models for d, c in m.checks.items()]
        measures = list(checks[0][2])
        lines = ([m.name, d, *(cell(c[measure]) for measure in measures)] for m, d, c in checks)
        parts.append(markdown_table(["model", "detector", *measures], lines))
    categories = list(dict.fromkeys(category for model in sets for category in model.categories))
    for name in names if categories else []:
        rows = [(model, [model.categories.get(category, {}).get(name) for category in categories]) for model in sets]
        if any(score is not None for _, scores in rows for score in scores):
            parts += ["", f"## {name} by category", ""]
            texts = iter(cells([score for _, scores in rows for score in scores]))
            lines = ([m.name, *(next(texts) for _ in scores)] for m, scores in rows)
            parts.append(markdown_table(["model", *categories], lines))
    notes = [*remarks(results), *results.settings.get("warnings", ())]
    if notes:
        parts += ["", "## Remarks", "", *(f"- {note}" for note in notes)]
    parts += ["", "## Settings", "", *_settings(results.settings)]
    return "\n".join(parts) + "\n"


def write_markdown(results: Results, folder: Path) -> None:
    """Write ``results.md``."""
    (folder / TABLE_FILE).write_text(markdown(results), encoding="utf-8")


def _best(scores: Iterable[Estimate | None]) -> Estimate | None:
    """The best of the scores whose direction is known; None where two are best."""
    known = [score for score in scores if score is not None and score.value is not None]
    if not known or known[0].higher_is_better is None:
        return None
    sign = 1 if known[0].higher_is_better else -1
    ranked = sorted(known, key=lambda score: sign * (score.value or 0.0), reverse=True)
    return ranked[0] if len(ranked) == 1 or ranked[0].value != ranked[1].value else None


def _count(results: Results) -> int:
    return max((score.count for model in everyone(results) for score in model.scores.values()), default=0)


def _settings(settings: Mapping[str, object]) -> list[str]:
    return [f"- {name}: `{value}`" for name, value in settings.items() if name not in ("config", "warnings")]
