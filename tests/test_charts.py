"""Charts, measured in their SVG: where zero, values, intervals, ticks and the line to compare with stand."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from realgen.charts import Bar, Curve, _ticks, bar_chart, calibration_chart, line_chart
from tests.helpers.chart_drawing import Drawing


def drawn(*bars: tuple[float | None, ...], **how: object) -> Drawing:
    made = [Bar(label, *(*ends, None, None)[:3], "text") for label, ends in zip("abcd", bars, strict=False)]
    return Drawing(bar_chart("score", made, **how))


def test_bars_begin_at_zero_even_for_negative_scores() -> None:
    found = drawn((-1.0, -2.0, 0.0), (2.0, 1.0, 3.0))
    assert found.ticks == ["-2", "-1", "0", "1", "2", "3"]
    assert found.bars == [(-1.0, 0.0), (0.0, 2.0)]
    assert found.whiskers == [(-2.0, 0.0), (1.0, 3.0)]
    assert found.dots == []


def test_a_percentage_has_its_whole_scale() -> None:
    found = drawn((25.0,), percent=True, unit="%", reference=50.0)
    assert found.ticks == ["0%", "25%", "50%", "75%", "100%"]
    assert (found.bars, found.whiskers, found.references) == ([(0.0, 25.0)], [], [50.0])


def test_numbers_that_differ_little_are_dots_on_an_axis_of_their_own() -> None:
    found = drawn((0.272, 0.262, 0.279), (0.27,), reference=0.28)
    assert found.ticks == ["0.260", "0.265", "0.270", "0.275", "0.280"]
    assert (found.bars, found.dots) == ([], [0.272, 0.27])
    assert (found.whiskers, found.references) == ([(0.262, 0.279)], [0.28])


@pytest.mark.parametrize(
    ("bars", "how", "dots"),
    [
        ((10.0, 5.1), {}, True),
        ((10.0, 4.9), {}, False),
        ((10.0, 10.0), {}, False),  # nothing to magnify
        ((-1.0, 1.0), {}, False),
        ((10.0, 9.0), {"dots": False}, False),  # how far from zero counts
        ((10.0, 1.0), {"dots": True}, True),
    ],
)
def test_bars_are_left_where_their_lengths_would_say_nothing(
    bars: tuple[float, ...], how: dict[str, bool], dots: bool
) -> None:
    assert bool(drawn(*((value,) for value in bars), **how).dots) is dots


def test_the_reference_is_on_the_scale() -> None:
    found = drawn((1185.0, 1142.0, 1226.0), (1074.0,), dots=True, reference=1000.0)
    assert found.ticks == ["1,000", "1,050", "1,100", "1,150", "1,200", "1,250"]
    assert (found.references, found.dots) == ([1000.0], [1185.0, 1074.0])


@pytest.mark.parametrize(
    "ends",
    [(0.0, 0.0), (5.0, 5.0), (-3.0, -3.0), (0.0, 1e6), (1e-5, 3e-5), (-0.31, 0.07), (99.99, 100.0), (0.0, 2.618)],
)
def test_an_axis_is_of_few_round_numbers_that_hold_all(ends: tuple[float, float]) -> None:
    ticks = _ticks(ends)
    assert 3 <= len(ticks) <= 7
    assert ticks[0] <= ends[0] <= ends[1] <= ticks[-1]
    step = ticks[1] - ticks[0]
    assert [b - a for a, b in pairwise(ticks)] == pytest.approx([step] * (len(ticks) - 1))
    assert float(f"{step:.6e}".split("e")[0]) in (1, 2, 2.5, 5)


def test_what_stands_out_has_the_second_colour() -> None:
    svg = bar_chart("score", [Bar("real", 3.0, None, None, "3", True), Bar("m", 1.0, None, None, "1")])
    assert svg.count("var(--real)") == svg.count("var(--fill)") == 1
    assert "var(--dot" not in svg


def test_labels_are_texts_of_any_script_and_no_formulas(recwarn: pytest.WarningsRecorder) -> None:
    label = "$x_1$ <b>\"'& 模型 صورة of a name that is much too long for a chart"
    svg = bar_chart("t<", [Bar(label, 1.0, None, None, "1.0 [0.5, 1.5]")])
    found = Drawing(svg)
    assert found.texts[0].startswith("$x_1$ <b>\"'& 模型")
    assert found.texts[1].endswith(" ...")
    assert found.texts[2] == "1.0 [0.5, 1.5]"
    assert found.root.attrib["aria-label"] == f"t<: {label} 1.0 [0.5, 1.5]"
    assert not recwarn.list


def test_a_chart_is_the_same_each_time_and_holds_shapes_alone() -> None:
    svg = bar_chart("score", [Bar("a", 1.0, 0.5, 2.0, "1")])
    assert svg == bar_chart("score", [Bar("a", 1.0, 0.5, 2.0, "1")])
    root = ElementTree.fromstring(svg)
    assert {element.tag.rpartition("}")[2] for element in root} == {"path", "text"}
    names = {name for element in root for name in element.attrib}
    assert not names & {"id", "style", "class", "href", "clip-path"}
    assert not re.search(r"#[0-9a-f]{6}", svg)  # every colour is the page's


def test_calibration_has_a_dot_per_bin_on_both_axes() -> None:
    svg = calibration_chart("Calibration", [(0.0, 0.0, 2.0), (50.0, 100.0, 4.0)])
    dots = [element for element in ElementTree.fromstring(svg) if element.get("fill") == "var(--dot)"]
    centres = []
    for dot in dots:
        places = re.findall(r"(-?[\d.]+) (-?[\d.]+)", dot.attrib["d"])
        centres.append(
            [(min(side) + max(side)) / 2 for side in zip(*((float(x), float(y)) for x, y in places), strict=True)]
        )
    (x0, y0), (x1, y1) = centres
    assert (x1 - x0, y0 - y1) == pytest.approx((89, 178), abs=0.1)  # half and all of the axes' 178
    assert "at 50 % predicted 100 % observed" in svg


@pytest.mark.parametrize("point", [(1.0, 0.5), (0.0, 0.0), (3.0, -2.0), (1000.0, 1e-12)])
def test_a_single_point_has_axes_too(point: tuple[float, float], recwarn: pytest.WarningsRecorder) -> None:
    svg = line_chart("reward", [Curve("mine", [point], dots=True)])
    assert not recwarn.list
    assert "nan" not in svg


def test_numbers_of_the_axes_and_a_dot_at_the_left_keep_apart() -> None:
    root = ElementTree.fromstring(line_chart("kid", [Curve("mine", [(0.0, 0.25), (10.0, 0.75)], dots=True)]))
    texts = {element.text: element for element in root if element.tag.endswith("text")}
    x, y = (float(texts["0"].attrib[axis]) for axis in "xy")
    lowest = texts["0.2"]
    assert lowest.get("text-anchor") == "end"
    assert x - float(lowest.attrib["x"]) >= 7  # the dot's radius is 3.5
    assert y - float(lowest.attrib["y"]) >= 11.5  # a line of text


def test_curves_and_what_is_shaded_stand_where_their_numbers_say() -> None:
    band = [(0.0, 0.25, 0.5), (10.0, 0.5, 1.0)]
    curves = [
        Curve("mine", [(0.0, 0.25), (10.0, 0.75)], band, dots=True),
        Curve("other", [(2.0, 0.0), (8.0, 1.0)], series=5),
    ]
    root = ElementTree.fromstring(line_chart("reward", curves, x_label="images"))
    assert root.get("aria-label") == "reward: mine from 0.25 to 0.75; other from 0 to 1"
    texts = {element.text: element for element in root if element.tag.endswith("text")}
    assert list(texts) == ["0", "2", "4", "6", "8", "10", "images", "0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    left, right = (float(texts[text].attrib["x"]) for text in ("0", "10"))
    paths = [element for element in root if element.tag.endswith("path")]
    lines = [path.attrib["d"] for path in paths if path.get("stroke") in ("var(--line)", "var(--soft)")]
    heights = [float(re.findall(r"[\d.]+", line)[1]) for line in lines]
    one, zero = min(heights), max(heights)

    def places(path: ElementTree.Element) -> list[tuple[float, float]]:
        found = ((float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.attrib["d"]))
        return [(round(10 * (x - left) / (right - left), 2), round((zero - y) / (zero - one), 2)) for x, y in found]

    mine = [path for path in paths if path.get("stroke") == "var(--dot)" and not path.get("opacity")]
    assert places(mine[0]) == [(0, 0.25), (10, 0.75)]
    (dashed,) = [path for path in paths if path.get("stroke") == "var(--dot-real)"]
    assert (places(dashed), bool(dashed.get("stroke-dasharray"))) == ([(2, 0.0), (8, 1.0)], True)
    (shaded,) = [path for path in paths if path.get("opacity") == "0.18"]
    assert set(places(shaded)) == {(0, 0.25), (0, 0.5), (10, 0.5), (10, 1.0)}
    assert sum(path.get("fill") == "var(--dot)" and path is not shaded for path in paths) == 2  # dots
