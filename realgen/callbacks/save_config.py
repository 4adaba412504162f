"""The config of a run beside its results."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from realgen.benchmark.report.run_page import SOURCES
from realgen.masking import mask_output, masked
from realgen.policies.base import Policy
from realgen.policies.diffusion_model import measured_rows
from realgen.whole_files import write_whole

AUTO = "rollout_batch_size: auto"
"""A setting of the image policy alone."""


class SaveConfig(Callback):
    """Write the whole config, defaults filled in, when a run starts; interpolations stand as they were written.

    To ``config.yaml`` in the folder of the run, from which ``--config`` starts the same run again, and into the config
    of the loggers. Written once, by the first process; ``sources``, where each setting stands, to a file beside it.
    """

    def __init__(self, text: str, path: Path, sources: str = "") -> None:
        self.text = text
        self.path = path
        self.sources = sources
        self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the config, before anything is computed."""
        if self._done or not trainer.is_global_zero:
            return
        self._done = True
        self._write(trainer)
        mask_output()  # outside of the wrappers by which a logger has just begun to keep what is printed

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the rows of a transformer call once they are measured, so that the file starts the same run again."""
        policy = getattr(pl_module, "policy", None)
        if AUTO in self.text and isinstance(policy, Policy) and (rows := measured_rows(policy)):
            self.text = self.text.replace(AUTO, f"{AUTO.removesuffix('auto')}{rows}")
            if trainer.is_global_zero:
                self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, self.text.encode())
        write_whole(self.path.with_name(SOURCES), self.sources.encode())
        config: dict[str, Any] = yaml.safe_load(self.text)
        for logger in trainer.loggers:
            logger.log_hyperparams(config)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mask what a module of one's own keeps of its arguments."""
        for name in (pl_module.CHECKPOINT_HYPER_PARAMS_KEY, LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY):
            if name in checkpoint:
                checkpoint[name] = masked(dict(checkpoint[name]))
