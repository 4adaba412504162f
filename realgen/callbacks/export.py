"""Export of the trained weights, in the format of diffusers, peft or transformers, or of the detector."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from realgen.callbacks.ema import averaged_weights
from realgen.callbacks.run_context import Exporter, run_folder, trained_of


class Export(Callback):
    """Write the weights (those of ``EMA`` if there is one) at the end of a fit and when a run is preempted.

    Args:
        directory: Name of the folder inside the run's folder.
    """

    def __init__(self, directory: str = "lora") -> None:
        self.directory = directory
        self.path: Path | None = None
        """Path to load, after the export."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export at the end of the fit."""
        self._export(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Export if the run is preempted; after any other error the weights may be inconsistent."""
        if isinstance(exception, SIGTERMException):
            self._export(trainer, pl_module)
            rank_zero_info(f"Exported the weights so far to {self.path}.")

    def _export(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained = trained_of(pl_module)
        if not isinstance(trained, Exporter):
            raise TypeError(f"{type(trained).__name__} cannot export its weights; it has no method export.")
        with averaged_weights(trainer, trained):
            self.path = trained.export(run_folder(trainer) / self.directory)
