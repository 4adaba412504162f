"""The checkpoint of the best validation, beside the last one: a policy that learns to cheat was better before."""

import math
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from realgen.callbacks.export import Export
from realgen.callbacks.run_context import callbacks_of, fits, iteration_of, last_checkpoint
from realgen.checkpoint_files import BEST, keep_copy


class BestCheckpoint(Callback):
    """Keep the checkpoint of the best validation as ``best.ckpt``, and export its weights beside those of ``Export``.

    Best by a metric that no reward sees, since the reward also rises while the policy cheats its detector. The baseline
    does not count. What was best is in the checkpoint, so a resumed run compares with it. Needs ``LastCheckpoint``.

    Args:
        metric: Name of one of the module's metrics, or of a value under ``val/`` for a module without metrics;
            ``auto``: the first of the module's metrics, none if it has none; null: none.
        mode: Whether the largest or the smallest value is best; ``auto``: as the metric says.
    """

    def __init__(self, metric: str | None = "auto", mode: Literal["auto", "max", "min"] = "auto") -> None:
        self.metric = metric
        self.mode = mode
        self.value: float | None = None
        self.iteration = 0
        self.is_new = False
        """Whether the last validation was the best, and is not kept yet."""
        self._before: tuple[float | None, int] = None, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the metric; ValueError if the module does not measure it, or does not say which values are better."""
        metrics = getattr(pl_module, "metrics", {})
        if self.metric == "auto":
            self.metric = next(iter(metrics), None)
        if self.metric is None:
            return
        if metrics and self.metric not in metrics:
            allowed = ", ".join(metrics)
            raise ValueError(
                f"callbacks.best_checkpoint.metric must be one of {allowed}, or null, got {self.metric!r}."
            )
        if self.mode == "auto":
            if self.metric not in metrics:
                raise ValueError(f"callbacks.best_checkpoint.mode must be max or min for {self.metric!r}, got 'auto'.")
            self.mode = "max" if metrics[self.metric].higher_is_better else "min"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the checkpoint that the run goes on from, if it is the best: a kill may have come before that."""
        if trainer.ckpt_path is not None and self.value is not None and self.iteration == iteration_of(pl_module):
            self.is_new = True
            self.keep(trainer, Path(trainer.ckpt_path))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare this validation with the best one; ``LastCheckpoint`` keeps it when it saves."""
        value = float(trainer.callback_metrics.get(f"val/{self.metric}", math.nan))
        if not fits(trainer) or math.isnan(value):
            return
        sign = 1 if self.mode == "max" else -1
        if self.value is None or sign * value > sign * self.value:
            self._before = self.value, self.iteration
            self.value, self.iteration, self.is_new = value, iteration_of(pl_module), True

    def take_back(self) -> None:
        """Forget that the last validation was the best, if it was: its weights are given up."""
        if self.is_new:
            (self.value, self.iteration), self.is_new = self._before, False

    def keep(self, trainer: Trainer, path: Path) -> None:
        """Keep the checkpoint of the present weights, if they are the best; every rank must call it."""
        if not self.is_new:
            return
        self.is_new = False
        if trainer.is_global_zero:
            keep_copy(path, last_checkpoint(trainer).with_name(BEST))
        for export in callbacks_of(trainer, Export):
            export.export_best(trainer, trainer.lightning_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, its metric and its iteration."""
        return {"metric": self.metric, "value": self.value, "iteration": self.iteration}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them; values of another metric are forgotten."""
        if state_dict["metric"] == self.metric:
            self.value, self.iteration = state_dict["value"], state_dict["iteration"]
