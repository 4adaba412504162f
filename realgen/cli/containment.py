"""Keeps what only reports on a run (callbacks that draw and tabulate, loggers) from ending it."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer

from realgen.callbacks import EMA, Export, Preemption
from realgen.callbacks.best_checkpoint import BestCheckpoint
from realgen.callbacks.due_validation import DueValidation
from realgen.callbacks.run_context import callbacks_of
from realgen.failures import contain, part_name, report_failure

ESSENTIAL = (Checkpoint, EarlyStopping, Timer, BestCheckpoint, DueValidation, EMA, Export, Preemption)
"""Callbacks without which a run is another one: their errors end it."""
HOOKS = [
    name for name in dir(Callback) if name.startswith(("on_train_", "on_validation_")) and name != "on_train_start"
]
HOOKS += ["on_fit_end", "on_exception", "on_save_checkpoint", "state_dict", "teardown"]
"""Hooks of a run that has begun. Before, in ``setup`` or ``on_train_start``, nothing is lost by an error."""
LOGGING = ("log_metrics", "log_hyperparams", "log_graph", "log_image", "log_table", "log_text", "save", "finalize")


def contain_reports(trainer: Trainer) -> None:
    """Let errors of callbacks and loggers be told in a line and cost no run.

    Those of ``ESSENTIAL`` callbacks still end it, but for ``on_exception``, where they would hide the error. With
    several processes, so do those of callbacks from elsewhere: a rank that goes on alone leaves the others waiting.
    """
    several = trainer.num_devices * trainer.num_nodes > 1
    for callback in callbacks_of(trainer, Callback):
        foreign = not type(callback).__module__.startswith("realgen.")
        hooks = ["on_exception"] if isinstance(callback, ESSENTIAL) or (several and foreign) else HOOKS
        contain(callback, [hook for hook in hooks if getattr(type(callback), hook) is not getattr(Callback, hook)])
    for logger in trainer.loggers:
        contain(logger, LOGGING)


def start_loggers(trainer: Trainer) -> None:
    """Begin each logger's run, and leave out those that cannot: Weights & Biases may be away."""
    for logger in list(trainer.loggers):
        try:
            getattr(logger, "experiment", None)
        except Exception as error:  # a service or a disk may fail in any way
            report_failure(part_name(logger), error, "this run is not logged there")
            trainer.loggers.remove(logger)
