"""No validation is lost: not the last one, and none that a stopped run left out."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from realgen.callbacks import EMA, LastCheckpoint, Preemption, Summary
from realgen.callbacks.due_validation import DueValidation
from tests.helpers.toy_grpo import MeanBlue, Prompts, module, trainer


class Seen(Callback):
    """Keeps what every validation found."""

    def __init__(self) -> None:
        self.found: dict[int, dict[str, float]] = {}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        assert pl_module.iteration not in self.found
        self.found[pl_module.iteration] = values


class Signal(Callback):
    """Sends SIGTERM in an iteration, or in the validation after it."""

    def __init__(self, iteration: int, hook: str) -> None:
        self.iteration, self.hook = iteration, hook

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self.hook == "training" and pl_module.iteration == self.iteration - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self.hook == "validation" and pl_module.iteration == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(folder: Path, *others: Callback, resume: bool = False, **settings: Any) -> tuple[dict[int, Any], Summary]:
    """Train four iterations in two epochs; returns what was validated after which iteration, and the summary."""
    seen, summary = Seen(), Summary(num_images=2)
    callbacks = [DueValidation(), EMA(decay=0.8), seen, summary, Preemption(), LastCheckpoint(), *others]
    lightning = trainer(folder, callbacks=callbacks, enable_checkpointing=True, **settings)
    last = folder / "checkpoints" / "last.ckpt" if resume else None
    try:
        lightning.fit(module(metrics={"blue": MeanBlue()}), Prompts(), ckpt_path=last, weights_only=True)
    except SIGTERMException:
        assert others
    return seen.found, summary


EACH_EPOCH: dict[str, Any] = {"check_val_every_n_epoch": 1}
AT_THE_END: dict[str, Any] = {"check_val_every_n_epoch": 2}
EACH_ITERATION: dict[str, Any] = {"val_check_interval": 1}
FEW_STEPS: dict[str, Any] = {"max_epochs": -1, "max_steps": 3, "check_val_every_n_epoch": 5}
ALL_STEPS: dict[str, Any] = {"max_steps": 4, "check_val_every_n_epoch": 1}
OVER_EPOCHS: dict[str, Any] = {"val_check_interval": 3, "check_val_every_n_epoch": None, "max_epochs": 3}


@pytest.mark.parametrize(
    ("settings", "iteration", "hook"),
    [
        (EACH_EPOCH, 2, "training"),
        (EACH_EPOCH, 2, "validation"),
        (AT_THE_END, 3, "training"),
        (AT_THE_END, 4, "training"),
        (EACH_ITERATION, 3, "training"),
        (EACH_ITERATION, 3, "validation"),
        (OVER_EPOCHS, 3, "training"),
        (FEW_STEPS, 3, "training"),
        (ALL_STEPS, 4, "training"),
    ],
)
def test_a_resumed_run_makes_up_the_validation_that_was_due(
    settings: dict[str, Any], iteration: int, hook: str, tmp_path: Path
) -> None:
    straight, _ = fit(tmp_path / "straight", **settings)
    first, _ = fit(tmp_path / "run", Signal(iteration, hook), **settings)
    second, summary = fit(tmp_path / "run", resume=True, **settings)
    assert {**first, **second} == straight
    assert first != straight
    assert summary.after is not None or len(straight) < 2


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, 6),
        ({"max_epochs": 1, "check_val_every_n_epoch": 5}, 2),
        ({"max_epochs": 3, "val_check_interval": 4, "check_val_every_n_epoch": None}, 6),
        ({"max_epochs": -1, "max_steps": 3, "check_val_every_n_epoch": 5}, 3),
    ],
)
def test_the_last_iteration_is_always_validated(settings: dict[str, Any], last: int, tmp_path: Path) -> None:
    found, _ = fit(tmp_path, **settings)
    assert last in found


def test_a_run_without_validation_has_none(tmp_path: Path) -> None:
    found, _ = fit(tmp_path, limit_val_batches=0)
    assert found == {}
