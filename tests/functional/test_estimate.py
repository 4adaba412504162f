"""The record of a number and its interval."""

from __future__ import annotations

from realgen.functional.estimate import Estimate


def test_text_has_limits_only_where_there_are_both() -> None:
    assert Estimate(0.5, 0.25, 0.75, count=4).text() == "0.500 [0.250, 0.750]"
    assert Estimate(0.5, None, None, count=1).text() == "0.500"
    assert Estimate(-0.5, -0.75, 0.25).text("+.1f", "%") == "-0.5% [-0.8, +0.2]"
    assert Estimate(None).text() == "-"


def test_another_unit_leaves_the_count_and_what_is_missing() -> None:
    assert Estimate(0.5, 0.25, 0.75, 4, True).scaled(100.0) == Estimate(50.0, 25.0, 75.0, 4, True)
    assert Estimate(0.5, None, None, 1).scaled(100.0) == Estimate(50.0, None, None, 1)
    assert Estimate(None).scaled(100.0) == Estimate(None)
