"""A last checkpoint that is complete at every moment, however the run ends."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from realgen.callbacks.run_context import last_checkpoint
from realgen.checks import check_at_least


class LastCheckpoint(ModelCheckpoint):
    """Keep ``last.ckpt``, and no other checkpoint, up to date.

    ``ModelCheckpoint`` can lose it: it writes to the temporary folder and may then have to copy over the old file, and
    ``save_last: link`` removes the link before it makes the new one. This one writes beside the old file and swaps
    them. Add a plain ``ModelCheckpoint`` to keep older states too.

    Args:
        dirpath: Local folder; by default ``checkpoints`` in the logger's folder of this run.
        every_n_epochs: Lightning epochs between two saves (of ``limit_train_batches`` iterations each), >= 1;
            it saves at the end too.

    Raises:
        ValueError: If ``every_n_epochs`` is below 1.
    """

    def __init__(self, dirpath: str | None = None, every_n_epochs: int = 1) -> None:
        check_at_least(1, every_n_epochs=every_n_epochs)
        super().__init__(
            dirpath=dirpath,
            save_last=True,
            save_top_k=0,
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,
        )
        self._period = every_n_epochs
        self._saved_step = -1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save every ``every_n_epochs``; after the epoch's validation, so that a resumed run does not miss it."""
        if (trainer.current_epoch + 1) % self._period == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the last epoch did not."""
        if self._saved_step != trainer.global_step:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if getattr(trainer, "fast_dev_run", False):  # Lightning's own checkpoints are off then, too
            return
        self.last_model_path = str(save_last(trainer))
        self._saved_step = trainer.global_step


def save_last(trainer: Trainer) -> Path:
    """Write ``last.ckpt`` so that a kill at any moment leaves the old or the new file; all ranks must call it.

    A sharded checkpoint is a folder, which cannot be swapped in one step: between two renames the old one is
    named ``last.old``.

    Args:
        trainer: Whose state is saved.

    Returns:
        Path of the checkpoint.
    """
    path = last_checkpoint(trainer)
    partial, old = path.with_suffix(".partial"), path.with_suffix(".old")
    if trainer.is_global_zero:
        _remove(partial)
    trainer.strategy.barrier()
    trainer.save_checkpoint(partial, weights_only=False)
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        if partial.is_dir() and path.exists():
            _remove(old)
            os.rename(path, old)
        elif partial.is_file():
            with partial.open("rb") as file:
                os.fsync(file)  # or a lost machine may keep the new name and lose the bytes
        os.replace(partial, path)
        _remove(old)
    trainer.strategy.barrier()
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
