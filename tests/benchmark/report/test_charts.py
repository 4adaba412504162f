"""Charts by hand: where zero, values, intervals, ticks and the line to compare with stand."""

from __future__ import annotations

from itertools import pairwise

import pytest

from realgen.benchmark.report.charts import Chart, Entry, axis, chart
from realgen.benchmark.results import Score


def drawn(*scores: Score, **how: object) -> Chart:
    return chart("score", [Entry(label, score, "") for label, score in zip("abcd", scores, strict=False)], **how)


def test_bars_begin_at_zero_even_for_negative_scores() -> None:
    found = drawn(Score(-1.0, -2.0, 0.0), Score(2.0, 1.0, 3.0))
    assert [tick.text for tick in found.ticks] == ["-2", "-1", "0", "1", "2", "3"]
    assert [tick.place for tick in found.ticks] == [0, 20, 40, 60, 80, 100]
    assert [tick.zero for tick in found.ticks] == [False, False, True, False, False, False]
    assert [(bar.left, bar.width, bar.low, bar.high) for bar in found.bars] == [(20, 20, 0, 40), (40, 40, 60, 100)]
    assert not found.dots


def test_a_percentage_has_its_whole_scale() -> None:
    found = drawn(Score(25.0), hundred=True, unit="%", reference=50.0)
    assert [tick.text for tick in found.ticks] == ["0%", "25%", "50%", "75%", "100%"]
    assert (found.bars[0].width, found.bars[0].low, found.reference) == (25, None, 50)


def test_numbers_that_differ_little_are_dots_on_an_axis_of_their_own() -> None:
    found = drawn(Score(0.272, 0.262, 0.279), Score(0.27), reference=0.28)
    assert found.dots
    assert [tick.text for tick in found.ticks] == ["0.260", "0.265", "0.270", "0.275", "0.280"]
    assert [bar.place for bar in found.bars] == [60, 50]
    assert (found.bars[0].low, found.bars[0].high, found.reference) == (10, 95, 100)


@pytest.mark.parametrize(
    ("scores", "dots"),
    [
        ((Score(10.0), Score(5.1)), True),
        ((Score(10.0), Score(4.9)), False),
        ((Score(10.0), Score(10.0)), False),  # nothing to magnify
        ((Score(-1.0), Score(1.0)), False),
        ((Score(10.0, higher_is_better=False), Score(9.0, higher_is_better=False)), False),  # how far from zero counts
    ],
)
def test_bars_are_left_where_their_lengths_would_say_nothing(scores: tuple[Score, ...], dots: bool) -> None:
    assert drawn(*scores).dots is dots


def test_the_reference_is_on_the_scale() -> None:
    found = drawn(Score(1185.0, 1142.0, 1226.0), Score(1074.0), dots=True, reference=1000.0)
    assert [tick.text for tick in found.ticks] == ["1,000", "1,050", "1,100", "1,150", "1,200", "1,250"]
    assert (found.reference, found.bars[0].place) == (0, 74)


@pytest.mark.parametrize(
    "ends",
    [(0.0, 0.0), (5.0, 5.0), (-3.0, -3.0), (0.0, 1e6), (1e-5, 3e-5), (-0.31, 0.07), (99.99, 100.0), (0.0, 2.618)],
)
def test_an_axis_is_of_few_round_numbers_that_hold_all(ends: tuple[float, float]) -> None:
    ticks = axis(*ends)
    assert 3 <= len(ticks) <= 7
    assert ticks[0] <= ends[0] <= ends[1] <= ticks[-1]
    step = ticks[1] - ticks[0]
    assert [b - a for a, b in pairwise(ticks)] == pytest.approx([step] * (len(ticks) - 1))
    assert float(f"{step:.6e}".split("e")[0]) in (1, 2, 2.5, 5)
