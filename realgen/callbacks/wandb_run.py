"""A run of Weights & Biases that stays one run when training is stopped and gone on with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from realgen.whole_files import write_whole

RECORD = Path("wandb", "run.json")
"""In the run's folder: id, name and group by which Weights & Biases knows the run."""
STEPS_OF_A_START = 1_000_000
"""More steps of W&B's own than one start logs: each start has so many for itself, as none may come twice."""


class WandbRun(Callback):
    """Keep the id of the run in its folder, show everything over ``iteration``, and count W&B's own steps on.

    An offline run that goes on writes a second record under the same id; its steps follow those of the first.
    ``identity`` is ``id``, ``name`` and ``group`` of the run.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self.folder = folder
        self.identity = dict(identity)
        self._begun = False
        self._first_step = len(list(folder.glob(f"{RECORD.parent}/*run-*"))) * STEPS_OF_A_START

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the id before anything is sent under it, define the x-axis, and go on counting."""
        if self._begun or not trainer.is_global_zero:
            return
        self._begun = True
        keep_identity(self.folder, self.identity)
        for run in [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]:
            run.define_metric("iteration")
            run.define_metric("*", step_metric="iteration", step_sync=True)
            if run.step < self._first_step:
                run.log({}, step=self._first_step)


def identity_of(folder: Path, new: Mapping[str, str]) -> dict[str, str]:
    """Return ``id``, ``name`` and ``group`` of a folder's run for W&B, ``new`` without; ValueError if unreadable."""
    path = folder / RECORD
    if not path.is_file():
        return dict(new)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(kept.get(name, value)) for name, value in new.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); without it, the run begins anew at W&B.") from error


def keep_identity(folder: Path, identity: Mapping[str, str]) -> None:
    """Write it into the folder of the run."""
    path = folder / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(dict(identity), indent=2) + "\n").encode())


def log_media(trainer: Trainer, media: Mapping[str, Any], iteration: int) -> None:
    """Send images or tables by name to the Weights & Biases loggers of the trainer, if there are any."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_metrics({**media, "iteration": iteration}, step=iteration)
