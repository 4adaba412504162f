"""The result of a detector's training: accuracy, AUROC and calibration, plain and under corruptions."""

from __future__ import annotations

import csv
import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console

from realgen.callbacks.export import Export
from realgen.callbacks.run_context import callbacks_of, iteration_of, run_folder
from realgen.metrics.detector_quality import Quality
from realgen.tables import markdown_table, terminal_table

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
"""Explains the columns."""


class DetectorReport(Callback):
    """Compare the last validation with the first one when the fit ends.

    Prints a table with one row per condition, and writes it into the run's folder as ``report.csv`` and ``report.md``,
    and to Weights & Biases. The first validation is in the checkpoint, so a resumed run compares with the same one.
    """

    def __init__(self) -> None:
        self.before: dict[str, Any] | None = None
        """The first validation: ``iteration`` and ``figures``."""
        self.after: dict[str, Any] | None = None
        """The last validation, in the same form; None until there was a second one."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep this validation's values."""
        quality: dict[str, Quality] = getattr(pl_module, "quality", {})
        if trainer.sanity_checking or not quality:
            return
        figures = {
            name: {metric: float(value) for metric, value in found._asdict().items()} for name, found in quality.items()
        }
        seen = {"iteration": iteration_of(pl_module), "figures": figures}
        if self.before is None:
            self.before = seen
        else:
            self.after = seen

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table and the next commands, and write the table."""
        if not trainer.is_global_zero or self.before is None or self.after is None:
            return
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        header, rows = report_rows(self.before, self.after)
        with (folder / "report.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        title = f"Held-out images; accuracy at iteration {self.before['iteration']} (before) and "
        title += f"{self.after['iteration']} (after), {LEGEND}"
        (folder / "report.md").write_text(f"{title}\n\n{markdown_table(header, rows)}\n", encoding="utf-8")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table("report", columns=header, data=rows)
        self._print(trainer, title, header, rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the first validation."""
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the first validation."""
        self.before = state_dict["before"]

    def _print(self, trainer: Trainer, title: str, header: list[str], rows: list[list[str]]) -> None:
        folder = run_folder(trainer)
        console = Console(soft_wrap=True)
        console.print(title)
        console.print(terminal_table(header, rows, framed=False))
        console.print(f"table      {folder / 'report.md'}", highlight=False)
        exported = next((export.path for export in callbacks_of(trainer, Export) if export.path), None)
        if exported is not None:
            console.print(f"weights    {exported}", highlight=False)
            console.print(
                "  use      as the detector's checkpoint, in its part or by --KEY.checkpoint", highlight=False
            )
        command = f"python -m realgen.fit --config {folder / 'config.yaml'} --run_dir={folder} --ckpt_path=last"
        console.print(f"go on      {command} --trainer.max_epochs=N", highlight=False, markup=False)


def report_rows(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the report as texts: one row per condition of the last validation.

    Args:
        before: ``iteration`` and ``figures`` of the first validation.
        after: The same of the last one.

    Returns:
        The header, and the rows.

    Example:
        >>> seen = [{"iteration": i, "figures": {"plain": {"accuracy": 0.5 + i / 20}}} for i in (0, 8)]
        >>> report_rows(*seen)[1][0][:4]
        ['plain', '0.500', '0.900', '+0.400']
    """
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
