"""What a language model made of the prompts, with images and rewards, on disk and in Weights & Biases."""

from __future__ import annotations

import json
import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from realgen.callbacks.picture_grid import to_picture
from realgen.callbacks.run_context import iteration_of, run_folder
from realgen.types import RewardOutput, Rollout


class RewriteTable(Callback):
    """Writes ``rewrites/iteration-000010.jsonl`` of a rollout and ``rewrites/validation-000010.jsonl`` of validations.

    A line is one image: prompt, text that the image model was told, whole completion, whether it kept to the format,
    and the rewards; null where one could not be judged. The same goes to Weights & Biases as a table with pictures.
    Rank 0 tells of its own samples. Rollouts without rewrites are passed over.

    Args:
        every_n_iterations: Iterations between two tables of rollouts, >= 1.
        num_rows: Most rows of a table of a rollout, the first samples of each prompt, >= 1; validations are written
            whole, and this many of them go to Weights & Biases.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, every_n_iterations: int = 10, num_rows: int = 24) -> None:
        for name, value in (("every_n_iterations", every_n_iterations), ("num_rows", num_rows)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.every_n_iterations = every_n_iterations
        self.num_rows = num_rows
        self._validated: list[tuple[Rollout, RewardOutput, list[int]]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a table of the rollout when it is time."""
        iteration = iteration_of(pl_module)
        rollout: Rollout = outputs["rollout"]
        if iteration % self.every_n_iterations or rollout.rewrites is None or not trainer.is_global_zero:
            return
        each = max(1, self.num_rows // len(rollout.prompts))
        samples = range(min(each, rollout.group_size))
        rows = [prompt * rollout.group_size + sample for prompt in range(len(rollout.prompts)) for sample in samples]
        self._write(trainer, f"iteration-{iteration:06d}", [(rollout, outputs["rewards"], rows[: self.num_rows])])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        self._validated = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keep the batch's rows that do not only pad it."""
        rollout: Rollout = outputs["rollout"]
        if rollout.rewrites is not None and trainer.is_global_zero:
            counts = batch.mask.repeat_interleave(rollout.group_size)
            self._validated.append((rollout, outputs["rewards"], counts.nonzero().flatten().tolist()))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table of the validation."""
        if self._validated and not trainer.sanity_checking:
            self._write(trainer, f"validation-{iteration_of(pl_module):06d}", self._validated)
        self._validated = []

    def _write(self, trainer: Trainer, name: str, parts: list[tuple[Rollout, RewardOutput, list[int]]]) -> None:
        path = run_folder(trainer) / "rewrites" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            (rollout, row, table_row(rollout, rewards, row)) for rollout, rewards, picked in parts for row in picked
        ]
        lines = [json.dumps(values, ensure_ascii=False) for _, _, values in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                shown = rows[: self.num_rows]
                pictures = [wandb.Image(to_picture(rollout.images[row])) for rollout, row, _ in shown]
                data = [[*values.values(), picture] for (_, _, values), picture in zip(shown, pictures, strict=True)]
                logger.log_table(f"rewrites/{name.split('-')[0]}", [*shown[0][2], "image"], data)


def table_row(rollout: Rollout, rewards: RewardOutput, row: int) -> dict[str, Any]:
    """One image of a rollout with rewrites, in words and numbers."""
    assert rollout.rewrites is not None
    rewrite = rollout.rewrites[row]
    values = {"reward": rewards.total, **rewards.parts}
    numbers = {name: float(value.flatten()[row]) for name, value in values.items()}
    return {
        "prompt": rollout.row_prompts[row],
        "text": rewrite.text,
        "completion": rewrite.completion,
        "formatted": rewrite.formatted,
        "truncated": rewrite.truncated,
        "skipped": rewrite.skipped,
        **{name: None if math.isnan(number) else number for name, number in numbers.items()},
    }
