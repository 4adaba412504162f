"""A callback that writes down what each training iteration cost, on a machine whose cores other jobs use too."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class CpuClock(Callback):
    """Appends a row to ``path`` after each iteration: its CPU seconds, and the rows that the transformer was given.

    CPU seconds of the process grow little when others use the cores, unlike seconds of the wall clock. Validation is
    left out.

    Args:
        path: A CSV file; must not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            raise ValueError(f"path must not exist yet, got {path}.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the header."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._append("iteration", "cpu_seconds", "sampled_and_scored_rows")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self._start, self._rows = time.process_time(), self._count(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock."""
        seconds, rows = time.process_time() - self._start, self._count(pl_module) - self._rows
        self._append(trainer.fit_loop.total_batch_idx + 1, f"{seconds:.3f}", rows)

    def _append(self, *cells: Any) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(cells)

    @staticmethod
    def _count(module: Any) -> int:
        return module.policy.transformer_evals
