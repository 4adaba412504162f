"""The results as one page that needs nothing else: no server, no script, no file beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from realgen.benchmark.report.arena_view import arena_view
from realgen.benchmark.report.tables import INTERVALS, checks, everyone, grids, remarks, scores
from realgen.benchmark.report.thumbnails import Thumbnail, thumbnails
from realgen.benchmark.report.view import best_and_worst, calibration_charts, charts, shown_names
from realgen.benchmark.results import ImageRow, Results
from realgen.checks import check_at_least, printable
from realgen.whole_files import write_whole

REPORT_FILE = "report.html"
_ELSEWHERE = ("command", "config", "time", "prompts", "warnings")
"""Settings that have places of their own in the page."""


def write_report(
    results: Results,
    out: Path,
    *,
    title: str = "RealBench",
    examples: int = 6,
    pairs: int = 12,
    budget: int = 8_000_000,
) -> None:
    """Write ``report.html``: scores with intervals, categories, what the detectors can, arena pairs, images, settings.

    Images stand in the page as small JPEGs; one whose file is not there is named instead. Whatever comes from outside
    (prompts, names, a judge's words) is escaped, and the page forbids itself scripts and requests.

    Of each model and detector there are at most ``examples`` images at each end, and at most ``pairs`` arena pairs. All
    images together have ``budget`` bytes: they become smaller where there are many. Relative paths of images start at
    the page's folder.

    Raises:
        ValueError: If a number is out of its range.
    """
    check_at_least(0, examples=examples, pairs=pairs)
    check_at_least(1, budget=budget)
    shown = best_and_worst(results, examples) if examples else []
    arena = arena_view(results, pairs)
    rows = [row for group in shown for row in (*group.best, *group.worst)]
    rows += [row for pair in arena.pairs for row in (pair.first, pair.second)] if arena is not None else []
    small = thumbnails([row.path(out.parent) for row in rows if row.file], budget=budget)

    def thumbnail(row: ImageRow) -> Thumbnail | None:
        return small.get(row.path(out.parent)) if row.file else None

    settings, config = results.settings, results.settings.get("config")
    text = render(
        "report.html.j2",
        title=title,
        models=[model.name for model in results.models],
        scores=scores(results),
        intervals=INTERVALS,
        has_real=results.real is not None,
        charts=charts(results),
        grids=grids(results, shown_names(results)),
        checks=checks(results),
        calibration=calibration_charts(results),
        arena=arena,
        best_and_worst=shown,
        thumbnail=thumbnail,
        warnings=[*remarks(results), *settings.get("warnings", ())],
        prompts=settings.get("prompts"),
        time=settings.get("time"),
        command=settings.get("command"),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else "",
        settings=_flat(settings),
        folders=[(model.name, model.images) for model in everyone(results) if model.images],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, text.encode())


def render(template: str, **values: Any) -> str:
    """Return a page: what comes from outside is escaped, control characters too; a value that lacks is an error."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FileSystemLoader(Path(__file__).parent),
    )
    environment.filters["hash"] = _hash
    return printable(environment.get_template(template).render(**values))


def _hash(script: str) -> str:
    """Return how a page's policy names the one script that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _flat(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name and text of each setting; of a mapping one line for each of its keys."""
    lines = []
    for name, value in settings.items():
        if name in _ELSEWHERE:
            continue
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        lines += [(f"{name} {key}".strip(), str(child)) for key, child in inner]
    return lines
