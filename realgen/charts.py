"""Charts as inline SVG, drawn by matplotlib: for pages without scripts, in the page's own colours, light or dark.

The page that holds a chart defines the colours: ``--ink`` (text, whiskers), ``--soft`` (axis), ``--line`` (grid),
``--fill`` and ``--dot`` (bars and dots), ``--real`` and ``--dot-real`` (those that stand out), ``--paper``; curves are
``SERIES``.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from realgen.checks import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, ROW, FONT = 430.0, 30.0, 13.5
"""Width of a bar chart and height of a bar's row, in the chart's own units; size of its text."""
_LABEL_CHARACTERS, _CHARACTER = 20, 7.2
"""Where a label is broken, and room for one character; the browser's font may be wider than matplotlib's."""
NARROW = 0.5
"""Where all numbers lie within this part of the way from zero, dots on an axis of their own replace bars."""
SERIES = ("dot", "dot-real", "third", "fourth")
"""Colours of the curves of a chart, in their order; the fifth is dashed, in the first colour."""
_NAMES = ("ink", "soft", "line", "fill", "real", "paper", *SERIES)
_COLORS = {name: f"#{3 * f'{number:02x}'}" for number, name in enumerate(_NAMES, start=1)}
"""Stand-ins that matplotlib draws with; in the SVG they become the page's variables."""
_SVG = "http://www.w3.org/2000/svg"
_ATTRIBUTES = (
    *("d", "x", "y", "transform", "text-anchor", "fill", "stroke", "stroke-width"),
    *("stroke-dasharray", "stroke-linecap", "font-size", "opacity"),
)
"""What is kept of matplotlib's shapes: no ids, styles or references."""


class Bar(NamedTuple):
    """One number of a bar chart."""

    label: str
    value: float
    low: float | None
    """Where its interval begins; None where there is none."""
    high: float | None
    text: str
    """The number as it is written beside."""
    stands_out: bool = False
    """Whether it has the second colour."""


class Curve(NamedTuple):
    """One line of a line chart."""

    label: str
    points: Sequence[tuple[float, float]]
    """x and y, by x, all finite."""
    band: Sequence[tuple[float, float, float]] = ()
    """x, low and high of what is shaded around it."""
    series: int = 0
    """Which of the colours."""
    dots: bool = False
    """Whether each point has a dot: where there are few."""


def bar_chart(
    title: str,
    bars: Sequence[Bar],
    *,
    percent: bool = False,
    dots: bool | None = None,
    reference: float | None = None,
    unit: str = "",
) -> str:
    """Draw numbers and their intervals as horizontal bars that begin at zero, or as dots, in an ``<svg>`` element.

    Args:
        title: Read aloud by a screen reader; it is not drawn.
        bars: At least one.
        percent: Whether the axis is 0 to 100, whatever the numbers are.
        dots: Draw dots, on an axis that begins at the numbers. None draws them where bars would be all but equally
            long: where all numbers lie within ``NARROW`` of the way from zero to the furthest.
        reference: Number at which a dashed line stands.
        unit: Written behind the numbers of the axis.
    """
    ends = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
    ends += [] if reference is None else [reference]
    if dots is None:
        least, most = min(ends), max(ends)
        longest = max(abs(least), abs(most))
        dots = not percent and least * most > 0 and 0 < most - least <= NARROW * longest
    described = f"{title}: {'; '.join(f'{bar.label} {bar.text}' for bar in bars)}"
    left = _CHARACTER * min(_LABEL_CHARACTERS, max(len(bar.label) for bar in bars)) + 12
    right = _CHARACTER * max(len(bar.text) for bar in bars) + 12
    inner, height = WIDTH - left - right, ROW * len(bars) + 26
    with _axes(WIDTH, height, (left, 24.0, WIDTH - right, height)) as (figure, axes):
        ticks = [0.0, 25.0, 50.0, 75.0, 100.0] if percent else _ticks(ends if dots else [*ends, 0.0])
        axes.set_xlim(ticks[0], ticks[-1])
        axes.set_ylim(len(bars) - 0.5, -0.5)  # the first bar on top
        texts = [f"{text}{unit}" for text in _tick_texts(ticks)]
        every = math.ceil(_CHARACTER * (1 + max(map(len, texts))) * len(ticks) / inner)  # so that texts do not overlap
        axes.set_xticks(ticks, [text if number % every == 0 else "" for number, text in enumerate(texts)])
        axes.set_yticks([])
        for tick in ticks:
            color = _COLORS["soft" if tick == 0 and not dots else "line"]
            axes.axvline(tick, color=color, linewidth=1, clip_on=False, zorder=0)
        if reference is not None:
            axes.axvline(reference, color=_COLORS["ink"], linewidth=1.3, linestyle=(0, (4, 3)), clip_on=False)
        scale = (ticks[-1] - ticks[0]) / inner  # of the axis per unit of the drawing
        for row, bar in enumerate(bars):
            _draw_bar(axes, row, bar, dots=dots, scale=scale)
            sides = axes.get_yaxis_transform()  # x as a share of the axis, y in rows
            label = "\n".join(textwrap.wrap(printable(bar.label), _LABEL_CHARACTERS, max_lines=2, placeholder=" ..."))
            axes.text(-left / inner, row, label, transform=sides, va="center")
            axes.text(1 + right / inner, row, bar.text, transform=sides, va="center", ha="right")
        return _svg(figure, described)


def calibration_chart(title: str, points: Sequence[tuple[float, float, float]]) -> str:
    """Draw a reliability diagram, an ``<svg>``: predicted probability against observed frequency, both in percent.

    The title is read aloud by a screen reader. A point is predicted, observed, and radius of the dot.
    """
    from matplotlib.patches import Circle, Rectangle

    described = "; ".join(f"at {x:g} % predicted {y:g} % observed" for x, y, _ in points)
    with _axes(240.0, 236.0, (44.0, 44.0, 222.0, 222.0)) as (figure, axes):
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.add_patch(Rectangle((0, 0), 100, 100, fill=False, edgecolor=_COLORS["line"], clip_on=False))
        axes.plot([0, 100], [0, 100], color=_COLORS["soft"], linewidth=1, linestyle=(0, (3, 3)), clip_on=False)
        for x, y, radius in points:
            axes.add_patch(Circle((x, y), radius, color=_COLORS["dot"], clip_on=False))
        axes.set_xticks([0, 50, 100])
        axes.set_yticks([0, 50, 100])
        axes.set_xlabel("predicted, %")
        axes.set_ylabel("observed, %")
        return _svg(figure, f"{title}: {described}")


def line_chart(title: str, curves: Sequence[Curve], *, x_label: str = "iteration") -> str:
    """Draw curves, one with a point at least, and bands as an ``<svg>``; title and ends are for screen readers."""
    from matplotlib.patches import Ellipse, Polygon

    points = [point for curve in curves for point in curve.points]
    ends = [(x, y) for curve in curves for x, *pair in curve.band for y in pair]
    xs, ys = (sorted({pair[axis] for pair in (*points, *ends)}) for axis in (0, 1))
    y_ticks, x_ticks = _ticks(ys), _ticks(xs)
    whole = all(float(x).is_integer() for x in xs)
    x_ticks = [tick for tick in x_ticks if not whole or tick.is_integer()]
    texts = _tick_texts(y_ticks)
    left, height = _CHARACTER * max(map(len, texts)) + 14, 192.0
    box = (left, 42.0, WIDTH - 14, height - 10)
    with _axes(WIDTH, height, box) as (figure, axes):
        axes.tick_params(pad=8)  # of a dot at the left the number stays free, and of the lowest number the first one
        first, last = min([xs[0], *x_ticks]), max([xs[-1], *x_ticks])
        axes.set_xlim(first, last if last > first else first + 1)  # a single point stands at the left
        axes.set_ylim(y_ticks[0], y_ticks[-1])
        axes.set_xticks(x_ticks, _tick_texts(x_ticks))
        axes.set_yticks(y_ticks, texts)
        axes.set_xlabel(x_label)
        for tick in y_ticks:
            axes.axhline(tick, color=_COLORS["soft" if tick == 0 else "line"], linewidth=1, clip_on=False, zorder=0)
        (low, high), (first, last) = axes.get_ylim(), axes.get_xlim()
        size = (7 * (last - first) / (box[2] - left), 7 * (high - low) / (box[3] - box[1]))
        for curve in curves:
            color = _COLORS[SERIES[curve.series % len(SERIES)]]
            style = "solid" if curve.series < len(SERIES) else (0, (4, 3))
            if curve.band:
                around = [(x, end) for x, end, _ in curve.band] + [(x, end) for x, _, end in reversed(curve.band)]
                axes.add_patch(Polygon(around, color=color, linewidth=0, alpha=0.18, clip_on=False))
            axes.plot(*zip(*curve.points, strict=True), color=color, linewidth=1.8, linestyle=style, clip_on=False)
            shape: dict[str, Any] = {"facecolor": color, "edgecolor": _COLORS["paper"], "clip_on": False, "zorder": 3}
            for point in curve.points if curve.dots else ():
                axes.add_patch(Ellipse(point, *size, **shape))
        told = (f"{c.label} from {c.points[0][1]:.4g} to {c.points[-1][1]:.4g}" for c in curves)
        return _svg(figure, f"{title}: {'; '.join(told)}")


def _ticks(numbers: Sequence[float]) -> list[float]:
    """Return round numbers for an axis that holds all."""
    from matplotlib.ticker import MaxNLocator

    least, most = min(numbers), max(numbers)
    if least == most:
        least, most = (0.0, 1.0) if least == 0 else sorted((0.9 * least, 1.1 * least))
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(least, most)
    return [float(f"{tick:.12g}") for tick in ticks]  # without rounding errors such as 2.9999999999999997e-05


def _tick_texts(ticks: Sequence[float]) -> list[str]:
    """Write all numbers with as many digits as tell them apart."""
    texts = [f"{tick:,.10g}" for tick in ticks]
    digits = max(len(text.partition(".")[2]) for text in texts)
    return texts if any("e" in text for text in texts) else [f"{tick:,.{digits}f}" for tick in ticks]


def _draw_bar(axes: Axes, row: int, bar: Bar, *, dots: bool, scale: float) -> None:
    from matplotlib.patches import Ellipse

    if not dots:
        axes.barh(row, bar.value, 0.5, color=_COLORS["real" if bar.stands_out else "fill"], clip_on=False)
    whisker: dict[str, Any] = {"color": _COLORS["ink"], "linewidth": 1.6, "clip_on": False}
    if bar.low is not None and bar.high is not None:
        axes.plot([bar.low, bar.high], [row, row], **whisker)
        for end in (bar.low, bar.high):
            axes.plot([end, end], [row - 0.14, row + 0.14], **whisker)
    if dots:
        color = _COLORS["dot-real" if bar.stands_out else "dot"]
        shape: dict[str, Any] = {"facecolor": color, "edgecolor": _COLORS["paper"], "linewidth": 1.4, "zorder": 3}
        axes.add_patch(Ellipse((bar.value, row), 11 * scale, 11 / ROW, clip_on=False, **shape))


@contextmanager
def _axes(width: float, height: float, box: tuple[float, float, float, float]) -> Iterator[tuple[Figure, Axes]]:
    """Yield an empty figure and its axes; ``box`` is left, bottom, right and top of the axes in the drawing's units."""
    import matplotlib.style
    from matplotlib.figure import Figure

    settings = {
        "text.parse_math": False,  # a dollar sign in a name is no formula
        "svg.fonttype": "none",
        "font.size": FONT,
        "text.color": _COLORS["ink"],
        "axes.labelcolor": _COLORS["soft"],
        "xtick.labelcolor": _COLORS["soft"],
        "ytick.labelcolor": _COLORS["soft"],
        "axes.labelsize": FONT - 2,
        "xtick.labelsize": FONT - 2,
        "ytick.labelsize": FONT - 2,
    }
    with matplotlib.style.context(["default", settings]), warnings.catch_warnings():
        # Characters that matplotlib's font lacks are drawn by the browser's.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width / 72, height / 72))
        left, bottom, right, top = box
        axes = figure.add_axes((left / width, bottom / height, (right - left) / width, (top - bottom) / height))
        axes.tick_params(length=0)
        axes.set_frame_on(False)
        yield figure, axes


def _svg(figure: Figure, description: str) -> str:
    """Return the figure as an element that fits any width: paths and texts alone, in the page's colours and font."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = ElementTree.fromstring(buffer.getvalue())
    variables = {color: f"var(--{name})" for name, color in _COLORS.items()}
    head = {"xmlns": _SVG, "viewBox": drawn.attrib["viewBox"], "role": "img", "aria-label": description}
    root = ElementTree.Element("svg", head)
    for element in drawn.iter():
        tag = element.tag.rpartition("}")[2]
        if tag not in ("path", "text"):
            continue
        attributes = {**element.attrib, **dict(re.findall(r"([\w-]+):\s*([^;]+)", element.attrib.get("style", "")))}
        kept = {name: variables.get(attributes[name], attributes[name]) for name in _ATTRIBUTES if name in attributes}
        ElementTree.SubElement(root, tag, kept).text = element.text
    return ElementTree.tostring(root, encoding="unicode")
