"""What the report shows, as numbers and texts that a template only has to place."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from markupsafe import Markup

from realgen.benchmark.arena.scoring import CALLED_REAL, ELO, WIN_RATE
from realgen.benchmark.report.tables import arrow, cells, everyone, score_names
from realgen.benchmark.results import JUDGED_REAL, REAL, ImageRow, Results
from realgen.charts import Bar, bar_chart, calibration_chart
from realgen.functional.calibration import balanced_reliability
from realgen.functional.estimate import Estimate

ARENA_SCORES = (WIN_RATE, CALLED_REAL, ELO)
BINS = 10
"""Of the calibration plots."""


class Chart(NamedTuple):
    """One score of all models, or one reliability diagram."""

    name: str
    arrow: str
    """Which way is better."""
    note: str
    """What the scale and the line mean; may be empty."""
    svg: Markup
    keys: Sequence[tuple[str, str, bool]] = ()
    """Of several curves: label, colour, and whether it is dashed."""


class BestAndWorst(NamedTuple):
    """The images of a model that a detector found most and least real."""

    detector: str
    model: str
    best: list[ImageRow]
    worst: list[ImageRow]


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
    """Draw all scores, detectors' in percent, but the arena's own; a line stands at the real images' score."""
    found = []
    percent = {name for detector in results.detectors for name in (detector, f"{detector}{JUDGED_REAL}")}
    for name in shown_names(results):
        known = [(model.name, model.scores[name]) for model in everyone(results) if name in model.scores]
        direction = arrow(score for _, score in known)
        real = next((score.value for label, score in known if label == REAL), None)
        texts = cells([score for _, score in known])
        # Bars of a distance begin at zero, the best there is, however alike they are.
        dots = False if direction == "↓" else None
        found.append(chart_of(name, known, texts, arrow=direction, percent=name in percent, dots=dots, reference=real))
    return [chart for chart in found if chart is not None]


def shown_names(results: Results) -> list[str]:
    """Return the names of the scores that the arena's part of the report does not show."""
    return [name for name in score_names(results) if results.arena is None or name not in ARENA_SCORES]


def calibration_charts(results: Results) -> list[Chart]:
    """Draw a reliability diagram of each detector on each model that it has scored beside the real images."""
    found = []
    for detector in results.detectors:
        for model in results.models:
            points = calibration_points(*(_p_fake(results, name, detector) for name in (REAL, model.name)))
            if points:
                name = f"{detector} on {model.name}"
                found.append(Chart(name, "", "", Markup(calibration_chart(f"Calibration of {name}", points))))
    return found


def _p_fake(results: Results, model: str, detector: str) -> list[float]:
    rows = (row for row in results.rows if row.model == model)
    return [1 - value for row in rows if (value := row.values.get(detector)) is not None]


def calibration_points(real: Sequence[float], generated: Sequence[float]) -> list[tuple[float, float, float]]:
    """Compute how many of the images whose p_fake is alike are generated: on the diagonal for a calibrated detector.

    For each of ten bins that holds an image: mean p_fake and share generated in percent, as were there as many real
    images as generated ones (``balanced_reliability``), and a radius that grows with the number of images.
    """
    if not real or not generated:
        return []
    both = (torch.tensor(values, dtype=torch.float64) for values in (real, generated))
    bins = zip(*(column.tolist() for column in balanced_reliability(*both, bins=BINS)), strict=True)
    return [(round(100 * x, 1), round(100 * y, 1), round(1 + 5 * math.sqrt(n / 2), 1)) for x, y, n in bins if n]


def best_and_worst(results: Results, number: int) -> list[BestAndWorst]:
    """Choose the images that each detector found most and least real, of each model; none is at both ends."""
    found = []
    for detector in results.detectors:
        for model in results.models:
            scored = [
                (value, row)
                for row in results.rows
                if row.model == model.name and (value := row.values.get(detector)) is not None
            ]
            ranked = [row for _, row in sorted(scored, key=lambda pair: -pair[0])]
            worst = min(number, len(ranked) // 2)
            if ranked:
                ends = ranked[: min(number, len(ranked) - worst)], ranked[::-1][:worst]
                found.append(BestAndWorst(detector, model.name, *ends))
    return found
