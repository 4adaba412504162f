"""What the report shows, as numbers and texts that a template only has to place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from markupsafe import Markup

from realgen.benchmark.arena.scores import CALLED_REAL, ELO, WIN_RATE
from realgen.benchmark.report.tables import arrow, cell, cells, everyone, score_names
from realgen.benchmark.results import JUDGED_REAL, REAL, ImageRow, Results
from realgen.charts import Bar, bar_chart, calibration_chart
from realgen.functional.calibration import balanced_reliability
from realgen.functional.estimate import Estimate

CHECKS = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "real_accuracy": "accuracy on real images",
    "fake_accuracy": "accuracy on generated images",
    "calibration_error": "calibration error",
    "brier": "Brier score",
}
"""Headings of the detectors' checks."""
ARENA_SCORES = (WIN_RATE, CALLED_REAL, ELO)
BINS = 10
"""Of the calibration plots."""


class Chart(NamedTuple):
    """One score of all models."""

    name: str
    arrow: str
    """Which way is better."""
    note: str
    """What the scale and the line mean; may be empty."""
    svg: Markup


@dataclass(frozen=True)
class Grid:
    """One score by category: rows are models."""

    name: str
    arrow: str
    categories: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """Model, and a text per category."""


@dataclass(frozen=True)
class Check:
    """How well one detector tells one model's images from the real images."""

    detector: str
    model: str
    cells: tuple[str, ...]
    """In the order of ``CHECKS``."""
    calibration: Markup | None
    """A reliability diagram; None without rows of both kinds."""


@dataclass(frozen=True)
class Example:
    """An image with what one detector said."""

    row: ImageRow
    text: str


@dataclass(frozen=True)
class BestAndWorst:
    """The images of a model that a detector found most and least real."""

    detector: str
    model: str
    best: tuple[Example, ...]
    worst: tuple[Example, ...]


def chart_of(
    name: str,
    scores: Sequence[tuple[str, Estimate | None]],
    texts: Sequence[str],
    *,
    arrow: str,
    note: str = "",
    **how: Any,
) -> Chart | None:
    """Draw a score of several models; the real images stand out. Return None where nobody has a value."""
    bars = [
        Bar(label, score.value, score.low, score.high, text, label == REAL)
        for (label, score), text in zip(scores, texts, strict=True)
        if score is not None and score.value is not None
    ]
    return Chart(name, arrow, note, Markup(bar_chart(name, bars, **how))) if bars else None


def charts(results: Results) -> list[Chart]:
    """Draw all scores but the arena's, which has charts of its own; detectors' in percent.

    A line stands at the real images' score.
    """
    found = []
    percent = {name for detector in results.detectors for name in (detector, f"{detector}{JUDGED_REAL}")}
    for name in _shown_names(results):
        scores = [(model.name, model.scores[name]) for model in everyone(results) if name in model.scores]
        direction = arrow(score for _, score in scores)
        real = next((score.value for label, score in scores if label == REAL), None)
        texts = cells([score for _, score in scores])
        # Bars of a distance begin at zero, the best there is, however alike they are.
        dots = False if direction == "↓" else None
        found.append(chart_of(name, scores, texts, arrow=direction, percent=name in percent, dots=dots, reference=real))
    return [chart for chart in found if chart is not None]


def _shown_names(results: Results) -> list[str]:
    """Of the scores that the arena's part of the report does not show."""
    return [name for name in score_names(results) if results.arena is None or name not in ARENA_SCORES]


def grids(results: Results) -> list[Grid]:
    """Scores by category, of those that have categories; the arena's stand in its own part."""
    sets = everyone(results)
    categories = tuple(dict.fromkeys(category for model in sets for category in model.categories))
    found = []
    for name in _shown_names(results):
        rows = [
            (model.name, [model.categories.get(category, {}).get(name) for category in categories]) for model in sets
        ]
        shown = [(model, scores) for model, scores in rows if any(score is not None for score in scores)]
        if shown:
            every = [score for _, scores in shown for score in scores]
            texts = iter(cells(every))
            lines = tuple((model, tuple(next(texts) for _ in scores)) for model, scores in shown)
            found.append(Grid(name, arrow(every), categories, lines))
    return found


def checks(results: Results) -> list[Check]:
    """Show how well each detector tells each model's images from the real ones."""
    found = []
    for detector in results.detectors:
        for model in results.models:
            if detector in model.checks:
                texts = tuple(cell(model.checks[detector].get(check)) for check in CHECKS)
                points = calibration_points(*(_p_fake(results, name, detector) for name in (REAL, model.name)))
                title = f"Calibration of {detector} on {model.name}"
                chart = Markup(calibration_chart(title, points)) if points else None
                found.append(Check(detector, model.name, texts, chart))
    return found


def _p_fake(results: Results, model: str, detector: str) -> list[float]:
    rows = (row for row in results.rows if row.model == model)
    return [1 - value for row in rows if (value := row.values.get(detector)) is not None]


def calibration_points(real: Sequence[float], generated: Sequence[float]) -> list[tuple[float, float, float]]:
    """Of images whose p_fake is alike, how many are generated: on the diagonal for a calibrated detector.

    The share is what it were with as many real images as generated ones (``balanced_reliability``).

    Returns:
        For each of ten bins that holds an image: mean p_fake and share generated in percent, and a radius that grows
        with the number of images.

    Example:
        >>> calibration_points([0.2, 0.2, 0.9, 0.1], [0.9])
        [(10.0, 0.0, 2.8), (20.0, 0.0, 3.5), (90.0, 80.0, 5.0)]
    """
    if not real or not generated:
        return []
    both = (torch.tensor(values, dtype=torch.float64) for values in (real, generated))
    bins = zip(*(column.tolist() for column in balanced_reliability(*both, bins=BINS)), strict=True)
    return [(round(100 * x, 1), round(100 * y, 1), round(1 + 5 * math.sqrt(n / 2), 1)) for x, y, n in bins if n]


def best_and_worst(results: Results, number: int) -> list[BestAndWorst]:
    """The images that each detector found most and least real, of each model.

    Args:
        results: With rows.
        number: Most images at each end; no image stands at both.
    """
    found = []
    for detector in results.detectors:
        for model in results.models:
            judged = [
                (value, row)
                for row in results.rows
                if row.model == model.name and (value := row.values.get(detector)) is not None
            ]
            ranked = [Example(row, f"{value:.1%}") for value, row in sorted(judged, key=lambda pair: -pair[0])]
            worst = min(number, len(ranked) // 2)
            if ranked:
                ends = ranked[: min(number, len(ranked) - worst)], ranked[::-1][:worst]
                found.append(BestAndWorst(detector, model.name, tuple(ends[0]), tuple(ends[1])))
    return found
