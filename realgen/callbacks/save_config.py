"""The config of a run beside its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger


class SaveConfig(Callback):
    """Write the whole config, defaults and computed values filled in, when a run starts.

    To ``config.yaml`` in the folder of the run, from which ``--config`` starts the same run again, and into the config
    of the loggers. Written once, by the first process.

    Args:
        text: The config as YAML.
        path: The file.
    """

    def __init__(self, text: str, path: Path) -> None:
        self.text = text
        self.path = path
        self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the config, before anything is computed."""
        if self._done or not trainer.is_global_zero:
            return
        self._done = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self.text)
        config: dict[str, Any] = yaml.safe_load(self.text)
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # its copy would only be a second file
                logger.log_hyperparams(config)
