"""What a run leaves behind: its files, and its tables on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from realgen.benchmark.report.page import REPORT_FILE, write_report
from realgen.benchmark.report.tables import markdown, print_tables, remarks
from realgen.benchmark.results import IMAGES_FILE, RESULTS_FILE, Results, write_results
from realgen.checks import printable

TABLE_FILE = "results.md"


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
