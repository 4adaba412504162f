"""What the report shows, as numbers and texts that a template only has to place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from realgen.benchmark.arena.scores import CALLED_REAL, ELO, WIN_RATE
from realgen.benchmark.report.charts import Chart, Entry, chart
from realgen.benchmark.report.tables import cell, cells, everyone, score_names
from realgen.benchmark.results import REAL, ImageRow, Results, Score

MEASURES = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "real_accuracy": "real images told",
    "fake_accuracy": "generated told",
    "calibration_error": "calibration error",
    "brier": "Brier score",
}
"""Headings of the detectors' checks."""
ARENA_SCORES = (WIN_RATE, CALLED_REAL, ELO)
BINS = 10
"""Of the calibration plots."""


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
    """In the order of ``MEASURES``."""
    points: tuple[tuple[float, float, float], ...]
    """Calibration: mean p_fake and share generated of each bin, and the radius of its dot; in percent."""


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


def arrow(scores: Iterable[Score | None]) -> str:
    """Which way is better, as a sign; empty where nobody says."""
    directions = {score.higher_is_better for score in scores if score is not None}
    return "↑" if directions == {True} else "↓" if directions == {False} else ""


def charts(results: Results) -> list[Chart]:
    """All scores but the arena's, which has charts of its own; detectors' on the scale of parts of a hundred.

    A line stands at the real images' score.
    """
    found = []
    hundred = {name for detector in results.detectors for name in (detector, f"{detector}_judged_real")}
    for name in _shown_names(results):
        scores = [(model, model.scores[name]) for model in everyone(results) if name in model.scores]
        known = [(model.name, score) for model, score in scores if score.value is not None]
        if known:
            texts = cells([score for _, score in known])
            entries = [Entry(label, score, text) for (label, score), text in zip(known, texts, strict=True)]
            real = next((score.value for label, score in known if label == REAL), None)
            direction = arrow(score for _, score in scores)
            found.append(chart(name, entries, arrow=direction, hundred=name in hundred, reference=real))
    return found


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
    """What the detectors can, one line per detector and model."""
    real_images = [row for row in results.rows if row.model == REAL]
    found = []
    for detector in results.detectors:
        for model in results.models:
            if detector in model.checks:
                cells = tuple(cell(model.checks[detector].get(measure)) for measure in MEASURES)
                rows = [row for row in results.rows if row.model == model.name]
                points = calibration_points(_p_fake(real_images, detector), _p_fake(rows, detector))
                found.append(Check(detector, model.name, cells, points))
    return found


def _p_fake(rows: Sequence[ImageRow], detector: str) -> list[float]:
    return [1 - value for row in rows if (value := row.values.get(detector)) is not None]


def calibration_points(real: Sequence[float], generated: Sequence[float]) -> tuple[tuple[float, float, float], ...]:
    """Of images whose p_fake is alike, how many are generated: on the diagonal for a calibrated detector.

    The share is what it were with as many real images as generated images.

    Args:
        real: p_fake of the real images.
        generated: p_fake of the generated images.

    Returns:
        For each of ten bins that holds an image: mean p_fake and share generated in percent, and a radius that grows
        with the number of images.

    Example:
        >>> calibration_points([0.2, 0.2, 0.9, 0.1], [0.9])
        ((10.0, 0.0, 2.8), (20.0, 0.0, 3.5), (90.0, 80.0, 5.0))
    """
    if not real or not generated:
        return ()
    points = []
    for number in range(BINS):
        inside = [
            [(value, 1 / len(values)) for value in values if min(int(value * BINS), BINS - 1) == number]
            for values in (real, generated)
        ]
        weights = [sum(weight for _, weight in part) for part in inside]
        total = sum(weights)
        if total:
            mean = sum(value * weight for part in inside for value, weight in part) / total
            radius = 1 + 5 * math.sqrt(total / 2)
            points.append((round(100 * mean, 1), round(100 * weights[1] / total, 1), round(radius, 1)))
    return tuple(points)


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
