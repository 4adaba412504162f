"""Saving and leaving in time when the machine is about to be taken away."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from realgen.callbacks.last_checkpoint import save_last
from realgen.callbacks.run_context import iteration_of
from realgen.parallel import any_rank

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preemption(Callback):
    """On SIGTERM or SIGUSR1, finish the iteration, write ``last.ckpt``, end with exit code 128 + signal (143, 138).

    The signal may reach one rank or all; the ranks agree after each iteration. Lightning's own handler broadcasts from
    inside the signal, amid whatever collective is running, and ends with exit code 0; it is replaced during the fit.
    An earlier handler of SIGUSR1 (Lightning's, which requeues a SLURM job) is called after the
    checkpoint. A signal during a validation waits for its end.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._saved = False
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers; Lightning has just installed its own."""
        self._received, self._saved = None, False
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save if any rank got a signal."""
        self._save_if_signalled(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Leave before the next iteration, after the last one's numbers are logged."""
        self._leave_if_saved()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave before a validation, which a resumed run makes up for."""
        self._leave_if_saved()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and leave if the signal came in the epoch's validation, or the epoch had none."""
        if not self._saved:
            self._save_if_signalled(trainer, pl_module)
        self._leave_if_saved()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the earlier handlers."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the earlier handlers."""
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def _save_if_signalled(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any_rank(self._received is not None, pl_module.device):
            path = save_last(trainer)
            self._saved = True
            rank_zero_info(f"Asked to leave: saved iteration {iteration_of(pl_module)} to {path}.")

    def _leave_if_saved(self) -> None:
        if not self._saved:
            return
        number = signal.SIGTERM if self._received is None else self._received
        requeue = self._previous.get(number)
        if number == signal.SIGUSR1 and callable(requeue):
            requeue(number, None)
        raise SIGTERMException(128 + number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            if handler is not None:
                signal.signal(number, handler)
        self._previous = {}
