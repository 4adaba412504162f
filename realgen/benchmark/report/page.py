"""What a run leaves behind: its files, among them one page that needs nothing else, and its tables on the terminal."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

from realgen.benchmark.report.arena_view import arena_view
from realgen.benchmark.report.tables import (
    INTERVALS,
    checks,
    everyone,
    grids,
    markdown,
    print_tables,
    remarks,
    scores,
)
from realgen.benchmark.report.thumbnails import Thumbnail, thumbnails
from realgen.benchmark.report.view import best_and_worst, calibration_charts, charts, shown_names
from realgen.benchmark.results import IMAGES_FILE, RESULTS_FILE, ImageRow, Results, write_results
from realgen.checks import printable
from realgen.whole_files import write_whole

REPORT_FILE, TABLE_FILE = "report.html", "results.md"
EXAMPLES, PAIRS, BUDGET = 6, 12, 8_000_000
"""Most images of each model and detector at each end, most arena pairs, and bytes of all images together."""
_ELSEWHERE = ("command", "config", "time", "prompts", "warnings")  # settings that have places of their own in the page


def write_outputs(results: Results, folder: Path) -> dict[str, Path]:
    """Write all files of a run; return them by their purpose."""
    write_results(results, folder)
    (folder / TABLE_FILE).write_text(printable(markdown(results)), encoding="utf-8")
    write_report(results, folder / REPORT_FILE)
    names = {"report": REPORT_FILE, "scores": RESULTS_FILE, "table": TABLE_FILE, "per image": IMAGES_FILE}
    return {purpose: folder / name for purpose, name in names.items()}


def show(results: Results, files: dict[str, Path]) -> None:
    """Print the tables, what a reader must know, and where the files are."""
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        # As wide as the tables need: in a file they would be 80 columns, with intervals cut in two.
        console = Console(soft_wrap=True, width=1000)
    print_tables(results, console)
    for note in (*remarks(results), *results.settings.get("warnings", ())):
        console.print(printable(f"note: {note}"), highlight=False, markup=False)
    for purpose, path in files.items():
        console.print(printable(f"{purpose:<10} {path}"), highlight=False, markup=False)


def write_report(results: Results, out: Path) -> None:
    """Write ``report.html``: scores with intervals, categories, what the detectors can, arena pairs, images, settings.

    Images stand in the page as JPEGs, smaller where there are many; one whose file is not there, by a path from the
    page's folder, is named instead. Whatever comes from outside (prompts, names, a judge's words) is escaped, and the
    page forbids itself scripts and requests.
    """
    shown = best_and_worst(results, EXAMPLES)
    arena = arena_view(results, PAIRS)
    rows = [row for group in shown for row in (*group.best, *group.worst)]
    rows += [row for pair in arena["pairs"] for row in (pair.first, pair.second)] if arena is not None else []
    small = thumbnails([row.path(out.parent) for row in rows if row.file], budget=BUDGET)

    def thumbnail(row: ImageRow) -> Thumbnail | None:
        return small.get(row.path(out.parent)) if row.file else None

    settings, config = results.settings, results.settings.get("config")
    text = render(
        "report.html.j2",
        title="RealBench",
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

    def digest(script: str) -> str:  # as a page's policy names the one script that may run
        return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"

    environment.filters["hash"] = digest
    return printable(environment.get_template(template).render(**values))


def _flat(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name and text of each setting; of a mapping one line for each of its keys."""
    lines = []
    for name, value in settings.items():
        if name in _ELSEWHERE:
            continue
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        lines += [(f"{name} {key}".strip(), str(child)) for key, child in inner]
    return lines
