"""The parts of a run that callbacks use: what it trains, its folder, its last checkpoint."""

from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from realgen.checkpoint_files import FOLDER, LAST
from realgen.policies.base import Policy

Kind = TypeVar("Kind", bound=Callback)


@runtime_checkable
class Exporter(Protocol):
    """An object that can write its trained weights: a policy, or the training of a detector."""

    def export(self, directory: Path) -> Path:
        """Write them into a folder and return the path to load."""


def trained_of(module: LightningModule) -> nn.Module:
    """Return what a module trains: its policy, or itself if it has none."""
    policy = getattr(module, "policy", None)
    return policy if isinstance(policy, Policy) else module


def callbacks_of(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    """Return the trainer's callbacks of one class."""
    return [callback for callback in getattr(trainer, "callbacks", []) if isinstance(callback, kind)]


def iteration_of(module: LightningModule) -> int:
    """Return the number of finished GRPO iterations, over resumed runs."""
    return int(getattr(module, "iteration", 0))


def run_folder(trainer: Trainer) -> Path:
    """Return the folder of a run: the trainer's root folder, wherever checkpoints and loggers write."""
    return Path(trainer.default_root_dir)


def fits(trainer: Trainer) -> bool:
    """Return whether the trainer fits, and not only tries out or validates the module."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def is_last_epoch(trainer: Trainer) -> bool:
    """Return whether the fit ends with this epoch, once its iterations are done."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    return 0 < epochs <= trainer.current_epoch + 1 or 0 < steps <= trainer.global_step or trainer.should_stop


def last_checkpoint(trainer: Trainer) -> Path:
    """Return ``last.ckpt`` of the callback that keeps one, else in ``checkpoints`` of the run's folder."""
    usual = run_folder(trainer) / FOLDER / LAST
    for callback in callbacks_of(trainer, ModelCheckpoint):
        if callback.save_last and callback.dirpath is not None:
            path = Path(callback.dirpath) / LAST
            return usual if path.resolve() == usual.resolve() else path  # Lightning has made it absolute
    return usual
