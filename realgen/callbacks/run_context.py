"""The parts of a run that callbacks use: what it trains, its folder, its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

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


def trained_weights(trained: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient, by name."""
    return {name: parameter for name, parameter in trained.named_parameters() if parameter.requires_grad}


def callbacks_of(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    """Return the trainer's callbacks of one class."""
    return [callback for callback in getattr(trainer, "callbacks", []) if isinstance(callback, kind)]


def iteration_of(module: LightningModule) -> int:
    """Return the number of finished GRPO iterations, over resumed runs."""
    return int(getattr(module, "iteration", 0))


def run_folder(trainer: Trainer) -> Path:
    """Return the folder of a run: the trainer's root folder, wherever checkpoints and loggers write."""
    return Path(trainer.default_root_dir)


def last_checkpoint(trainer: Trainer) -> Path:
    """Return ``last.ckpt`` of the callback that keeps one, else in ``checkpoints`` of the run's folder."""
    for callback in callbacks_of(trainer, ModelCheckpoint):
        if callback.save_last and callback.dirpath is not None:
            return Path(callback.dirpath) / "last.ckpt"
    return run_folder(trainer) / "checkpoints" / "last.ckpt"
