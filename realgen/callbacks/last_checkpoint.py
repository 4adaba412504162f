"""A last checkpoint that is complete at every moment, however the run ends."""

import errno
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from realgen.callbacks.best_checkpoint import BestCheckpoint
from realgen.callbacks.run_context import (
    callbacks_of,
    fits,
    is_last_epoch,
    iteration_of,
    last_checkpoint,
    run_folder,
    trained_of,
)
from realgen.checkpoint_files import PREVIOUS, install
from realgen.checks import check_at_least
from realgen.parallel import EVERYWHERE, any_rank, world_size
from realgen.phases import phase_of
from realgen.policies.weight_copy import trained_weights
from realgen.whole_files import remove, unfinished_path


class LastCheckpoint(ModelCheckpoint):
    """Keep ``last.ckpt`` up to date, and the one before it as ``previous.ckpt``.

    ``ModelCheckpoint`` can lose it: it writes to the temporary folder and may then have to copy over the old file, and
    ``save_last: link`` removes the link before it makes the new one. This one writes beside the old file and swaps
    them. Add a plain ``ModelCheckpoint`` to keep older states too.

    Args:
        dirpath: Local folder; by default ``checkpoints`` in the logger's folder of this run.
        every_n_epochs: Lightning epochs between two saves (of ``limit_train_batches`` iterations each), >= 1;
            it saves at the end too.
    """

    def __init__(self, dirpath: str | None = None, every_n_epochs: int = 1) -> None:
        check_at_least(1, every_n_epochs=every_n_epochs)
        super().__init__(
            dirpath=dirpath, save_last=True, save_top_k=0, every_n_epochs=every_n_epochs, save_on_train_epoch_end=True
        )
        self._saved_step = -1
        self._saving = False
        self._started: int | None = None
        self._trained = False
        self._before_validation = False
        self._config: Path | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the run's config, without which its folder was deleted."""
        config = run_folder(trainer) / "config.yaml"
        self._config = config if config.exists() else None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before a validation, which may fail; a run that goes on from there makes up for it."""
        if fits(trainer) and self._trained:  # else it is made up for, and the checkpoint is there
            self._before_validation = True
            self._save(trainer)
            self._before_validation = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let Lightning go on behind the last batch: it knows only checkpoints of ``on_train_batch_end`` and later."""
        if self._before_validation:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):
                counts["completed"] -= 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Count epoch and batches, which Lightning does not always behind an epoch whose last batch was over."""
        self._started = iteration_of(pl_module)
        epochs: Any = trainer.fit_loop.epoch_progress
        for counts in (epochs.total, epochs.current):
            counts.ready = counts.started = counts.processed + 1
        if trainer.accumulate_grad_batches == 1 and hasattr(pl_module, "iteration"):
            # Of loggers; Lightning's is one short behind a last validation that a start made up for.
            trainer.fit_loop.epoch_loop._batches_that_stepped = self._started

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Remember that the weights are others than those of the checkpoint that the run went on from."""
        self._trained = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best weights now if the epoch goes on; at its end they would be others."""
        is_best = any(best.is_new for best in callbacks_of(trainer, BestCheckpoint))
        if is_best and self._trained and not trainer.is_last_batch:  # if it is made up for, they are kept already
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save every ``every_n_epochs``, at the end, and after a validation: its results are in the checkpoint then."""
        due = (trainer.current_epoch + 1) % self._every_n_epochs == 0 or is_last_epoch(trainer)
        if due or self._saved_step == trainer.global_step:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the last epoch did not."""
        if self._saved_step != trainer.global_step:
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the finished iterations before the run is given up, unless the error came in the middle of an update.

        Lightning calls this callback's after those of the others, which restore the weights after a validation. Of
        several ranks, all must have failed together. Weights with NaN replace no checkpoint.
        """
        done = self._saved_step == trainer.global_step or self._saving  # or its own error: the disk may be full
        if not (fits(trainer) and self._trained and isinstance(exception, Exception)) or done:
            return
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        untouched = not pl_module.automatic_optimization and iteration_of(pl_module) == self._started
        if progress.started > progress.processed and not (untouched and phase_of(exception) != "update"):
            return
        finite = all(bool(p.isfinite().all()) for p in trained_weights(trained_of(pl_module)).values())
        together = world_size() == 1 or getattr(exception, EVERYWHERE, False)
        if together and not any_rank(not finite, pl_module.device):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if getattr(trainer, "fast_dev_run", False):  # Lightning's own checkpoints are off then, too
            return
        self._saving = True
        deleted = self._config is not None and not self._config.exists()
        if any_rank(deleted, trainer.strategy.root_device):  # what is written now would be no whole run
            reason = "No such file or directory; the run's folder was deleted while it was at work"
            raise FileNotFoundError(errno.ENOENT, reason, str(run_folder(trainer)))
        self.last_model_path = str(save_last(trainer))
        self._saved_step, self._saving = trainer.global_step, False


def save_last(trainer: Trainer) -> Path:
    """Write ``last.ckpt``, old or new whatever happens; the old one becomes ``previous.ckpt``. All ranks call it."""
    path = last_checkpoint(trainer)
    unfinished = Path(trainer.strategy.broadcast(str(unfinished_path(path))))
    try:
        trainer.save_checkpoint(unfinished, weights_only=False)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            install(unfinished, path, previous=path.with_name(PREVIOUS))
    finally:
        if trainer.is_global_zero:
            remove(unfinished)
    trainer.strategy.barrier()
    for best in callbacks_of(trainer, BestCheckpoint):
        best.keep(trainer, path)
    return path
