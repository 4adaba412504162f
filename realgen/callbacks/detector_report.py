"""The result of a detector's training: accuracy, AUROC and calibration, plain and under corruptions."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from realgen.callbacks.closing_screen import ClosingScreen, print_end
from realgen.callbacks.run_context import iteration_of, run_folder
from realgen.metrics.detector_quality import Quality
from realgen.tables import csv_bytes, markdown_table, terminal_table
from realgen.whole_files import write_whole

Figures = dict[str, dict[str, float]]
"""Condition -> metric -> value; NaN where there is none."""

HEADINGS = {
    "real_accuracy": "real",
    "fake_accuracy": "fake",
    "auroc": "AUROC",
    "calibration_error": "ECE",
    "brier": "Brier",
}
"""Columns beside the accuracy, of the last validation."""
LEGEND = "then of real and of generated images, AUROC, calibration error and Brier score (after)"
USE = "as the detector's checkpoint, in its part or by --KEY.checkpoint"


class DetectorReport(ClosingScreen):
    """Compare the last validation with the first one when the fit ends; show it alone where it was the only one.

    Prints a table with one row per condition, and writes it into the run's folder as ``report.csv`` and ``report.md``,
    and to Weights & Biases.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep this validation's values."""
        quality: dict[str, Quality] = getattr(pl_module, "quality", {})
        if trainer.sanity_checking or not quality:
            return
        figures = {
            name: {metric: float(value) for metric, value in found._asdict().items()} for name, found in quality.items()
        }
        self.keep({"iteration": iteration_of(pl_module), "figures": figures})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table and the next commands, and write the table."""
        if not trainer.is_global_zero or self.before is None:
            return
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        header, rows = report_rows(self.before, self.after or self.before)
        write_whole(folder / "report.csv", csv_bytes([header, *rows]))
        title = self._title()
        write_whole(folder / "report.md", f"{title}\n\n{markdown_table(header, rows)}\n".encode())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table("report", columns=header, data=rows)
        shown = [title, terminal_table(header, rows, framed=False)]
        print_end(trainer, shown, [("table", folder / "report.md")], lambda _: [USE])

    def is_written(self, folder: Path) -> bool:
        """Return whether a folder holds the table of the last validation."""
        path = folder / "report.md"
        written = (folder / "report.csv").exists() and path.exists() and path.read_text(encoding="utf-8")
        return super().is_written(folder) or bool(written and written.startswith(self._title()))

    def _title(self) -> str:
        assert self.before is not None
        last = self.after or self.before
        title = f"Held-out images; accuracy at iteration {self.before['iteration']} (before) and "
        return f"{title}{last['iteration']} (after), {LEGEND}"


def report_rows(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the report as texts: the header, and one row per condition of the last validation."""
    header = ["condition", "before", "after", "change", *HEADINGS.values()]
    rows = []
    for name, figures in after["figures"].items():
        first = before["figures"].get(name, {}).get("accuracy", math.nan)
        last = figures["accuracy"]
        others = [_number(figures.get(metric, math.nan)) for metric in HEADINGS]
        rows.append([name, _number(first), _number(last), _number(last - first, sign=True), *others])
    return header, rows


def _number(value: float, *, sign: bool = False) -> str:
    return "" if math.isnan(value) else f"{value:+.3f}" if sign else f"{value:.3f}"
