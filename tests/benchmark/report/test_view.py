from __future__ import annotations

from dataclasses import replace

import pytest

from realgen.benchmark.arena.result import ArenaResult, PairRow
from realgen.benchmark.report.arena_view import chosen_pairs
from realgen.benchmark.report.tables import arrow, grids
from realgen.benchmark.report.view import best_and_worst, calibration_points, charts, shown_names
from realgen.benchmark.results import ImageRow, ModelResults, Results
from realgen.functional.estimate import Estimate
from realgen.judges.base import Choice
from tests.helpers.chart_drawing import Drawing

ARENA = ArenaResult("j", "swapped", (), (), {}, None, None, (), 0, 0, 0, 0, 0, 0, 0)


def one(*models: tuple[str, Estimate], detectors: tuple[str, ...] = ()) -> Results:
    return Results(tuple(ModelResults(name, {"score": score}) for name, score in models), detectors=detectors)


def test_a_detector_is_shown_on_the_whole_scale() -> None:
    (chart,) = charts(one(("a", Estimate(25.0)), detectors=("score",)))
    found = Drawing(chart.svg)
    assert (found.bars, found.whiskers, found.ticks[-1]) == ([(0.0, 25.0)], [], "100")
    assert found.references == []


def test_a_line_stands_at_the_real_images() -> None:
    found = one(("a", Estimate(25.0)), detectors=("score",))
    (chart,) = charts(replace(found, real=ModelResults("real", {"score": Estimate(90.0)})))
    drawn = Drawing(chart.svg)
    assert drawn.references == [90.0]
    assert drawn.texts == ["real", "90.0", "a", "25.0"]
    assert (chart.svg.count("var(--real)"), chart.svg.count("var(--fill)")) == (1, 1)


def test_the_arenas_scores_stand_in_its_own_part() -> None:
    scores = {"arena_elo": Estimate(1000.0), "d": Estimate(1.0)}
    found = Results((ModelResults("m", scores, {"people": scores}),))
    shown = [
        names
        for held in (found, replace(found, arena=ARENA))
        for names in ([chart.name for chart in charts(held)], [grid.caption for grid in grids(held, shown_names(held))])
    ]
    captions = ["arena_elo by category", "d by category"]
    assert shown == [["arena_elo", "d"], captions, ["d"], captions[1:]]


def test_scores_that_could_not_be_computed_have_no_bar() -> None:
    assert charts(one(("a", Estimate(None)))) == []
    (chart,) = charts(one(("a", Estimate(0.0)), ("b", Estimate(None))))
    found = Drawing(chart.svg)
    assert (found.texts, found.bars) == (["a", "0.000"], [(0.0, 0.0)])


def test_the_arrow_needs_agreement() -> None:
    up, down = Estimate(1.0, higher_is_better=True), Estimate(1.0, higher_is_better=False)
    assert [arrow([up, None, up]), arrow([down]), arrow([Estimate(1.0)]), arrow([up, down])] == ["↑", "↓", "", ""]


def test_a_calibrated_detector_lies_on_the_diagonal() -> None:
    """p_fake of 100 images each, drawn by rejection so that of those at p the share p is generated."""
    real = [p for p in (0.25, 0.75) for _ in range(round(400 * (1 - p)))]
    generated = [p for p in (0.25, 0.75) for _ in range(round(400 * p))]
    assert [(x, y) for x, y, _ in calibration_points(real, generated)] == [(25.0, 25.0), (75.0, 75.0)]


def test_the_calibration_takes_both_kinds_alike() -> None:
    few = calibration_points([0.55] * 3, [0.55])
    assert [(x, y) for x, y, _ in few] == [(55.0, 50.0)]
    assert calibration_points([], [0.5]) == []
    assert calibration_points([1.0], [1.0])[0][:2] == (100.0, 50.0)


@pytest.mark.parametrize(("number", "best", "worst"), [(1, "c", "a"), (2, "cb", "a"), (9, "cb", "a")])
def test_no_image_is_both_best_and_worst(number: int, best: str, worst: str) -> None:
    rows = tuple(ImageRow(n, "m", "", n, "", {"d": v}) for n, v in zip("abcd", (0.1, 0.5, 0.9, None), strict=True))
    (found,) = best_and_worst(Results((ModelResults("m", {}),), rows=rows, detectors=("d",)), number)
    assert "".join(row.name for row in found.best) == best
    assert "".join(row.name for row in found.worst) == worst


def test_pairs_of_every_kind_come_in_turn() -> None:
    def row(name: str, first: str, outcome: float | None, forward: Choice) -> PairRow:
        return PairRow(name, "", first, "real", "", "", outcome, forward, "")

    rows = [row(f"w{i}", "a", 1.0, "first") for i in range(5)]
    rows += [row("t", "a", 0.5, "tie"), row("d", "a", 0.5, "first"), row("l", "b", 0.0, "second")]
    rows += [row("n", "b", None, "first")]
    assert [pair.name for pair in chosen_pairs(rows, 6)] == ["w0", "t", "d", "l", "w1", "w2"]
    assert chosen_pairs(rows, 0) == []
