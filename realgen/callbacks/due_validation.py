"""Validations that may not be missing: the one after the last iteration, and the one a stopped run left out."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from realgen.callbacks.run_context import callbacks_of


class DueValidation(Callback):
    """Validate after the last iteration of a fit, and make up for a validation that a checkpoint says was due.

    Lightning validates after every ``check_val_every_n_epoch``-th epoch, which the last one need not be. From a
    checkpoint that was written before a validation, it goes on behind it.

    Place it before the callbacks that save: what they write must know of the last validation.
    """

    def __init__(self) -> None:
        self._validated: int | None = None
        self._due = False
        self._max_steps: int | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let Lightning validate if this was the last iteration."""
        last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        if (last_epoch and trainer.is_last_batch) or 0 < trainer.max_steps <= trainer.global_step:
            trainer.check_val_every_n_epoch, trainer.val_check_batch = 1, batch_idx + 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember which weights were validated."""
        if not trainer.sanity_checking:
            self._validated, self._due = trainer.global_step, False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record whether the validation of these weights is still to come, and whether a callback ends the run here."""
        loop = trainer.fit_loop
        due = loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
        checkpoint["validation_due"] = self._due or (due and self._validated != trainer.global_step)
        checkpoint["stopped"] = limits_of(trainer) if trainer.should_stop else None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore it; a checkpoint of an older version says nothing."""
        self._due = checkpoint.get("validation_due", False)
        if self._due and 0 < trainer.max_steps <= checkpoint["global_step"]:  # Lightning would skip the fit
            self._max_steps = trainer.max_steps
            trainer.fit_loop.epoch_loop.max_steps = checkpoint["global_step"] + 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for the validation."""
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        if self._due:
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False
            trainer.validating = True
            loop.run()
            trainer.training = True


def limits_of(trainer: Trainer) -> dict[str, Any]:
    """Return how far a run may go, by the names of the trainer's arguments; -1 or None is no limit."""
    times = [timer._duration for timer in callbacks_of(trainer, Timer)]
    return {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps, "max_time": times}
