"""Curves of training runs, for their report: rollouts, held-out prompts, learning, and seconds."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple

import torch
from markupsafe import Markup

from realgen.benchmark.comparison.comparison import Price
from realgen.benchmark.comparison.runs import RecordedRun, ValidationPoint
from realgen.benchmark.report.view import Chart
from realgen.charts import SERIES, Curve, line_chart
from realgen.functional.bootstrap import bootstrap_mean

Measured = dict[int, tuple[float, float, float]]
"""By iteration: a value, and from where to where it is shaded."""
LEARNING = (
    *("objective/kl", "objective/ratio_mean", "objective/ratio_max_deviation", "objective/clip_fraction"),
    *("grad_norm", "zero_variance_groups", "reward_std", "rewrite/entropy", "rewrite/format_rate", "watch/alarms"),
)
"""Numbers of the log that tell how a policy learns; a second policy logs them under ``image/``."""
SPREAD = 0.1
"""Share of the prompts below what is shaded around a reward, and above it."""
MOST_POINTS = 300
"""Of a curve in the page."""


class Section(NamedTuple):
    """Charts under one heading."""

    title: str
    note: str
    charts: list[Chart]
    small: bool = False


def prompt_means(point: ValidationPoint, name: str) -> dict[str, float]:
    """Return the mean of a measure over each prompt's images, by the prompt's key; empty where it has no images."""
    found: dict[str, list[float]] = {}
    for image, value in point.values.get(name, {}).items():
        found.setdefault(image.key, []).append(value)
    return {key: fmean(values) for key, values in found.items()}


def rolled_out(name: str, log: RecordedRun) -> Measured:
    """Return a number of the iterations."""
    return {iteration: (value, value, value) for iteration, value in log.numbers.get(name, {}).items()}


@lru_cache(maxsize=8192)
def mean_interval(values: tuple[float, ...]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a mean over prompts; each page asks once more for those of the page before."""
    estimate = bootstrap_mean(torch.tensor(values, dtype=torch.float64))
    return estimate.low, estimate.high


def held_out(name: str, log: RecordedRun, *, shaded: bool = True) -> Measured:
    """Return a measure on held-out prompts; if ``shaded``, of rewards with the prompts' spread, else its interval."""
    found = rolled_out(f"val/{name}", log)
    for point in log.points:
        if not (means := list(prompt_means(point, name).values())):
            continue
        value, low, high = fmean(means), None, None
        if shaded and name.partition("/")[0] == "reward":
            values = torch.tensor(means, dtype=torch.float64)
            low, high = values.quantile(torch.tensor([SPREAD, 1 - SPREAD], dtype=torch.float64)).tolist()
        elif shaded:
            low, high = mean_interval(tuple(means))
        found[int(point.iteration)] = (value, value if low is None else low, value if high is None else high)
    return dict(sorted(found.items()))


def places(log: RecordedRun, price: Price | None) -> dict[int, float]:
    """Return where each iteration stands on an axis of iterations, of images drawn, or of seconds of training."""
    if price is not None:
        return {int(point.iteration): float(getattr(point, price)) for point in log.points}
    return {iteration: float(iteration) for numbers in log.numbers.values() for iteration in numbers}


def curve_of(
    label: str,
    measured: Sequence[Measured],
    where: Sequence[Mapping[int, float]],
    *,
    series: int = 0,
    dots: bool = False,
) -> Curve | None:
    """Average runs of one config at the iterations that all have, thinned to ``MOST_POINTS``; None where there is none.

    Shaded is what lies between the lowest and the highest seed, or of a single run its own interval.
    """
    shared = sorted(set.intersection(*(set(each) & set(at) for each, at in zip(measured, where, strict=True))))
    if len(shared) > MOST_POINTS:
        shared = [shared[place * (len(shared) - 1) // (MOST_POINTS - 1)] for place in range(MOST_POINTS)]
    points, band = [], []
    for iteration in shared:
        x, found = fmean(at[iteration] for at in where), [each[iteration] for each in measured]
        ends = found[0][1:] if len(found) == 1 else [value for value, _, _ in found]
        points.append((x, fmean(value for value, _, _ in found)))
        band.append((x, min(ends), max(ends)))
    shaded = band if any(low < high for _, low, high in band) else ()
    return Curve(label, points, shaded, series, dots) if points else None


def chart_of(name: str, curves: Sequence[Curve | None], *, arrow: str = "", x_label: str = "iteration") -> list[Chart]:
    """Draw curves, with a key where there are several; nothing where there is none."""
    drawn = [curve for curve in curves if curve is not None]
    keys = [(curve.label, SERIES[curve.series % len(SERIES)], curve.series >= len(SERIES)) for curve in drawn]
    chart = [Markup(line_chart(name, drawn, x_label=x_label))] if drawn else []
    return [Chart(name, arrow, "", svg, keys if len(keys) > 1 else ()) for svg in chart]


Groups = Mapping[str, Sequence[RecordedRun]]
"""Runs of the same config but for the seed, by a name."""


def sections(groups: Groups) -> list[Section]:
    """Draw all that the runs have logged: one run against its iterations, several against each other at equal price."""
    logs = [log for group in groups.values() for log in group]

    def compared(name: str, read: Callable[[RecordedRun], Measured], price: Price | None, *, dots: bool) -> list[Chart]:
        curves = []
        for series, (label, group) in enumerate(groups.items()):
            measured = [read(log) for log in group]
            where = [places(log, price) for log in group]
            curves.append(curve_of(label, measured, where, series=series, dots=dots))
        x_label = {"images": "images drawn in training", "seconds": "seconds of training"}.get(price or "", "iteration")
        known = [log.higher_is_better[name] for log in logs if name in log.higher_is_better]
        higher = True if name.partition("/")[0] == "reward" else next(iter(known), None)
        arrow = "" if higher is None else "↑" if higher else "↓"
        return chart_of(name, curves, arrow=arrow, x_label=x_label)

    found = [_alone(logs[0])] if len(logs) == 1 else []
    prices: list[Price | None] = [None] if len(logs) == 1 else ["images", "seconds"]
    for price in prices:
        for rewarded in (True, False) if len(logs) > 1 else (False,):
            names = sorted({name for log in logs for name in log.names(rewarded=rewarded)})
            shaded = len(logs) == 1  # a single seed's spread over prompts would be taken for one over seeds
            charts = [c for n in names for c in compared(n, partial(held_out, n, shaded=shaded), price, dots=True)]
            title = ("Rewards" if rewarded else "Never rewarded") + (f" at equal {price}" if price else "")
            found.append(Section(title, _NOTES[len(logs) > 1], charts))
    for prefix in ("", "image/"):
        charts = [c for n in LEARNING for c in compared(prefix + n, partial(rolled_out, prefix + n), None, dots=False)]
        found.append(Section(f"How it learns{' to draw' if prefix else ''}", _LEARNING_NOTE, charts, small=True))
    found.append(Section("Seconds", "Of each iteration, by phase.", _seconds(logs[0]) if len(logs) == 1 else []))
    return [section for section in found if section.charts]


_NOTES = {
    False: "On held-out prompts, with averaged weights. Shaded, where each image has a value: the 95 % interval "
    "of the mean over prompts.",
    True: "On held-out prompts; the line is the mean over the seeds, shaded from the lowest seed to the highest.",
}
_LEARNING_NOTE = "Of the rollouts and updates of each iteration; docs/logging.md says what each number is."


def _alone(log: RecordedRun) -> Section:
    at, charts = places(log, None), []
    for name in log.names(rewarded=True):
        rollouts = curve_of("rollouts", [rolled_out(name, log)], [at])
        prompts = curve_of("held-out prompts", [held_out(name, log)], [at], series=1, dots=True)
        charts += chart_of(name, [rollouts, prompts])
    note = "Line: mean over an iteration's rollouts. Dots: held-out prompts; shaded: the middle 80 % of the prompts."
    return Section("Rewards", note, charts)


def _seconds(log: RecordedRun) -> list[Chart]:
    names = [name for name in log.numbers if name.startswith("seconds/")]
    curves = [
        curve_of(name.removeprefix("seconds/"), [rolled_out(name, log)], [places(log, None)], series=series)
        for series, name in enumerate(names)
    ]
    by_iteration = [sum(log.numbers[name].get(i, 0.0) for name in names) for i in sorted(log.numbers.get("reward", {}))]
    total = list(accumulate(by_iteration))
    name = f"{total[-1]:,.0f} seconds in all, without validation" if total else "seconds"
    return chart_of(name, curves)
