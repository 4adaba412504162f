"""What the callbacks need to know about a run: its policy and its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from realgen.policies.base import Policy

Kind = TypeVar("Kind", bound=Callback)


def policy_of(module: LightningModule) -> Policy:
    """The policy that a module trains.

    Raises:
        TypeError: If the module has none; these callbacks are for GRPO modules.
    """
    policy = getattr(module, "policy", None)
    if not isinstance(policy, Policy):
        raise TypeError(f"{type(module).__name__} has no policy; realgen's callbacks need a GRPO module.")
    return policy


def callbacks_of(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    """The trainer's callbacks of one class."""
    return [callback for callback in getattr(trainer, "callbacks", []) if isinstance(callback, kind)]


def iteration_of(module: LightningModule) -> int:
    """Finished GRPO iterations, over resumed runs."""
    return int(getattr(module, "iteration", 0))


def checkpoint_folder(trainer: Trainer) -> Path:
    """Where checkpoints go: the folder of the first checkpoint callback, else ``checkpoints`` in the root folder."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
        return Path(callback.dirpath)
    return Path(trainer.default_root_dir) / "checkpoints"


def run_folder(trainer: Trainer) -> Path:
    """Folder of everything that a run writes: the one around its checkpoints."""
    return checkpoint_folder(trainer).parent
