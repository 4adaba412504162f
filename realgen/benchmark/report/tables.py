"""The results as tables: on the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.table import Table

from realgen.benchmark.results import ModelResults, Results
from realgen.functional.estimate import Estimate
from realgen.tables import markdown_table, styled, terminal_table

SHOWN_CHECKS = ("auroc", "accuracy", "calibration_error")
WEAK_AUROC = 0.6
"""Below it a detector does not tell a model's images from real images; below 1 - ``WEAK_AUROC`` it is inverted on them:
it takes them for real images, and real images for generated, more often than the other way round."""
INTERVALS = (
    "The interval in brackets is that of other prompts of the same kind; a number without one is of a single prompt, "
    "of all images together, or has none that could be computed."
)


def cell(score: Estimate | None) -> str:
    """Write a score with its interval, with three decimals where it is small; the value alone where it has none.

    Example:
        >>> cell(Estimate(47.2, 45.12, 49.26)), cell(Estimate(0.1234)), cell(Estimate(None)), cell(None)
        ('47.2 [45.1, 49.3]', '0.123', '-', '-')
    """
    return cells([score])[0]


def cells(scores: Sequence[Estimate | None]) -> list[str]:
    """Write scores that are read side by side, as ``cell`` writes one, all with the digits of the largest.

    Example:
        >>> cells([Estimate(4.25, 2.0, 9.5), None, Estimate(12.0, 8.0, 16.5)])
        ['4.2 [2.0, 9.5]', '-', '12.0 [8.0, 16.5]']
    """
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


def score_lines(results: Results) -> Iterator[tuple[str, list[Estimate | None], list[str]]]:
    """Yield the name of each score with its arrow, and everyone's score and its text."""
    for name in score_names(results):
        scores = [model.scores.get(name) for model in everyone(results)]
        yield f"{name} {arrow(scores)}".strip(), scores, cells(scores)


def category_lines(results: Results, name: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return all categories; and of each model that has the score in one, its name and a text per category."""
    sets = everyone(results)
    categories = list(dict.fromkeys(category for model in sets for category in model.categories))
    rows = [(model.name, [model.categories.get(category, {}).get(name) for category in categories]) for model in sets]
    shown = [(model, scores) for model, scores in rows if any(score is not None for score in scores)]
    texts = iter(cells([score for _, scores in shown for score in scores]))
    return categories, [(model, [next(texts) for _ in scores]) for model, scores in shown]


def score_table(results: Results) -> Table:
    """Build the table of scores for the terminal: one line per score, one column per model.

    The best model of a line is bold, where one is better than the others.
    """
    rows = []
    for name, scores, texts in score_lines(results):
        best = _best(scores[-len(results.models) :]) if len(results.models) > 1 else None
        bold = (best is not None and score is best for score in scores)
        rows.append([name, *(styled("bold" if each else "", text)[0] for each, text in zip(bold, texts, strict=True))])
    headings = ["score", *(model.name for model in everyone(results))]
    return terminal_table(headings, rows, title=f"RealBench, {_count(results)} prompts")


def check_table(results: Results) -> Table | None:
    """Show how well the detectors tell each model's images from the real images; None without real images."""
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
    names = score_names(results)
    parts = ["# RealBench", "", f"{_count(results)} prompts. {INTERVALS}", ""]
    columns = [texts for _, _, texts in score_lines(results)]
    lines = ([model.name, *texts] for model, *texts in zip(everyone(results), *columns, strict=True))
    parts.append(markdown_table(["model", *names], lines))
    if any(model.checks for model in results.models):
        parts += ["", "## Can the detectors tell them from the real images?", ""]
        checks = [(m, d, c) for m in results.models for d, c in m.checks.items()]
        measures = list(checks[0][2])
        lines = ([m.name, d, *(cell(c[measure]) for measure in measures)] for m, d, c in checks)
        parts.append(markdown_table(["model", "detector", *measures], lines))
    for name in names:
        categories, rows = category_lines(results, name)
        if rows:
            parts += ["", f"## {name} by category", ""]
            parts.append(markdown_table(["model", *categories], ([model, *texts] for model, texts in rows)))
    notes = [*remarks(results), *results.settings.get("warnings", ())]
    if notes:
        parts += ["", "## Remarks", "", *(f"- {note}" for note in notes)]
    parts += ["", "## Settings", "", *_settings(results.settings)]
    return "\n".join(parts) + "\n"


def _best(scores: Iterable[Estimate | None]) -> Estimate | None:
    """Return the best of the scores whose direction is known; None where two are best."""
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
