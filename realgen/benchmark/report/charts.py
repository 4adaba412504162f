"""Scores of several models side by side, placed on one scale with an axis; a template only draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from realgen.benchmark.results import REAL, Score

NARROW = 0.5
"""Where all numbers lie within this part of the way from zero, the axis begins at the numbers, not at zero."""


class Entry(NamedTuple):
    """A score to be drawn."""

    label: str
    """Whose it is."""
    score: Score
    """With a value."""
    text: str
    """The score as it is written beside."""


@dataclass(frozen=True)
class Bar:
    """A score on the scale; places and lengths in percent of the chart's width."""

    label: str
    text: str
    real: bool
    """Whether it is the real images'."""
    place: float
    """Of the value."""
    left: float
    """Where the bar begins, at zero or at the value; it means nothing where a chart has dots."""
    width: float
    low: float | None
    """Where the interval begins; None where there is none."""
    high: float | None


class Tick(NamedTuple):
    """A number on the axis."""

    place: float
    """In percent of the width."""
    text: str
    zero: bool
    """Whether bars begin there."""


@dataclass(frozen=True)
class Chart:
    """One score of all models."""

    name: str
    arrow: str
    """Which way is better."""
    note: str
    """What the scale and the line mean; may be empty."""
    bars: tuple[Bar, ...]
    dots: bool
    """Whether values are dots, since lengths would mean nothing on an axis without zero."""
    ticks: tuple[Tick, ...]
    reference: float | None
    """Where a line stands to compare with, in percent of the width; None for no line."""


def chart(
    name: str,
    entries: Sequence[Entry],
    *,
    arrow: str = "",
    note: str = "",
    hundred: bool = False,
    dots: bool = False,
    reference: float | None = None,
    unit: str = "",
) -> Chart:
    """Place scores on a scale that holds all of them, their intervals and the reference.

    Bars begin at zero. Dots have an axis that begins at the numbers; they are taken, too, where bars would be all but
    equally long: where all ends of higher-is-better scores lie within ``NARROW`` of the way from zero to the furthest.

    Args:
        name: Of the score.
        entries: At least one.
        arrow: Which way is better.
        note: What the scale and the line mean.
        hundred: Whether the scale is that of a percentage, 0 to 100, whatever the scores are.
        dots: Draw dots in any case.
        reference: Number at which a line stands.
        unit: Written behind each number of the axis.
    """
    scores = [entry.score for entry in entries]
    numbers = [end for score in scores for end in (score.value, score.low, score.high) if end is not None]
    numbers += [] if reference is None else [reference]
    least, most = min(numbers), max(numbers)
    falling = any(score.higher_is_better is False for score in scores)  # a distance: zero is the best there is
    furthest = max(abs(least), abs(most))
    narrow = not hundred and not falling and least * most > 0 and 0 < most - least <= NARROW * furthest
    dots = dots or narrow
    if hundred:
        ticks = [0.0, 25.0, 50.0, 75.0, 100.0]
    else:
        ticks = axis(least, most) if dots else axis(min(0.0, least), max(0.0, most))
    start, span = ticks[0], ticks[-1] - ticks[0]

    def place(value: float) -> float:
        return round(100 * (value - start) / span, 2)

    def bar(entry: Entry) -> Bar:
        score = entry.score
        end = place(score.value or 0.0)
        begin = end if dots else place(0.0)
        limits = (None, None) if score.low is None or score.high is None else (place(score.low), place(score.high))
        left, width = min(begin, end), round(abs(end - begin), 2)
        return Bar(entry.label, entry.text, entry.label == REAL, end, left, width, *limits)

    return Chart(
        name,
        arrow,
        note,
        tuple(map(bar, entries)),
        dots,
        tuple(
            Tick(place(tick), f"{text}{unit}", tick == 0 and not dots)
            for tick, text in zip(ticks, _texts(ticks), strict=True)
        ),
        None if reference is None else place(reference),
    )


def axis(low: float, high: float) -> list[float]:
    """Round numbers for an axis, evenly spaced, the first at or below ``low`` and the last at or above ``high``.

    Args:
        low: The least number to be shown.
        high: The greatest.

    Returns:
        3 to 7 numbers that are multiples of 1, 2, 2.5 or 5 times a power of ten.

    Example:
        >>> axis(0.0, 2.6), axis(0.262, 0.279), axis(880.0, 1226.0)
        ([0.0, 1.0, 2.0, 3.0], [0.26, 0.265, 0.27, 0.275, 0.28], [800.0, 900.0, 1000.0, 1100.0, 1200.0, 1300.0])
    """
    if low == high:
        return axis(low - abs(low) / 10, low + abs(low) / 10) if low else axis(0.0, 1.0)
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _texts(ticks: Sequence[float]) -> list[str]:
    """With as many digits as tell them apart."""
    digits = next((n for n in range(10) if all(abs(tick - round(tick, n)) < 1e-10 for tick in ticks)), 10)
    return [f"{tick:,.{digits}f}" for tick in ticks]
