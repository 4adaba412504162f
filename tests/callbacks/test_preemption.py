"""That a resumed run equals a straight one is in tests/modules/test_resume.py; here, what else a signal does."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from realgen.callbacks import EMA, Export, LastCheckpoint, Preemption
from tests.helpers.toy_grpo import Prompts, module, trainer


class Term(Callback):
    """Sends a signal while the first iteration runs."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        self.number = number

    def on_train_batch_start(self, *args: Any) -> None:
        os.kill(os.getpid(), self.number)


def test_the_iteration_is_finished_logged_and_exported(tmp_path: Path) -> None:
    trained, average, export = module(), EMA(decay=0.9, warmup=1), Export()
    callbacks = [Term(), Preemption(), average, export, LastCheckpoint()]
    lightning = trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(SIGTERMException):
        lightning.fit(trained, Prompts())
    assert trained.iteration == 1
    assert float(lightning.callback_metrics["iteration"]) == 1
    assert export.path == tmp_path / "lora"
    exported = torch.load(export.path / "w.pt")
    assert torch.equal(exported["bias"], average.weights["bias"])
    assert not torch.equal(exported["bias"], trained.policy.bias)


def test_it_saves_without_a_checkpoint_callback(tmp_path: Path) -> None:
    with pytest.raises(SIGTERMException) as leaving:
        trainer(tmp_path, callbacks=[Term(), Preemption()]).fit(module(), Prompts())
    assert leaving.value.code == 143
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["iteration"] == 1


def test_an_earlier_handler_of_sigusr1_is_called_after_the_checkpoint(tmp_path: Path) -> None:
    calls = []

    def requeue(number: int, frame: Any) -> None:
        calls.append((number, (tmp_path / "checkpoints" / "last.ckpt").exists()))

    before = signal.signal(signal.SIGUSR1, requeue)
    try:
        with pytest.raises(SIGTERMException):
            trainer(tmp_path, callbacks=[Term(signal.SIGUSR1), Preemption()]).fit(module(), Prompts())
        assert calls == [(signal.SIGUSR1, True)]
        assert signal.getsignal(signal.SIGUSR1) is requeue
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_fit_without_a_signal_gives_the_handlers_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    trainer(tmp_path, callbacks=[Preemption()], limit_val_batches=0).fit(module(), Prompts())
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before
    assert not (tmp_path / "checkpoints").exists()


def test_a_fit_outside_the_main_thread_goes_without(tmp_path: Path) -> None:
    trained = module()
    lightning = trainer(tmp_path, callbacks=[Preemption()], limit_val_batches=0)
    thread = threading.Thread(target=lightning.fit, args=(trained, Prompts()))
    thread.start()
    thread.join()
    assert trained.iteration == 4
