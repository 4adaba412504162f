"""Tables of prompts, rewrites, images and rewards, on disk and in Weights & Biases."""

import json
import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from realgen.callbacks.image_grid import to_pil
from realgen.callbacks.run_context import iteration_of, run_folder
from realgen.callbacks.wandb_run import log_media
from realgen.checks import check_at_least
from realgen.types import RewardOutput, Samples

Line = tuple[dict[str, Any], Image.Image | None]
"""One image of a table: texts and numbers by column, and the image, None where it is not shown."""


class RewriteTable(Callback):
    """Write ``rewrites/iteration-000010.jsonl`` of a rollout and ``rewrites/validation-000010.jsonl`` of validations.

    A line is one image: prompt, the image model's text, whole completion, whether it kept to the format, and the
    rewards; null where one could not be scored. The same goes to Weights & Biases as a table with images. Rank 0 writes
    its own samples. Rollouts without rewrites are skipped.

    Args:
        every_n_iterations: Iterations between two tables of rollouts, >= 1.
        num_rows: Most rows of a table of a rollout, spread over the samples of each prompt, >= 1; validations are
            written whole, and this many of them go to Weights & Biases.
    """

    def __init__(self, every_n_iterations: int = 10, num_rows: int = 24) -> None:
        check_at_least(1, every_n_iterations=every_n_iterations, num_rows=num_rows)
        self.every_n_iterations = every_n_iterations
        self.num_rows = num_rows
        self._validated: list[Line] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """Write a table of the rollout every ``every_n_iterations``."""
        iteration = iteration_of(pl_module)
        drawn: Samples = outputs["samples"]
        if iteration % self.every_n_iterations or drawn.rewrites is None or not trainer.is_global_zero:
            return
        size = drawn.group_size
        each = min(max(1, self.num_rows // len(drawn.prompts)), size)
        samples = [sample * size // each for sample in range(each)]  # the images of one rewrite stand together
        rows = [prompt * size + sample for prompt in range(len(drawn.prompts)) for sample in samples]
        lines = self._lines(drawn, outputs["rewards"], rows[: self.num_rows])
        self._write(trainer, f"iteration-{iteration:06d}", lines)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keep the batch's rows that are no padding."""
        drawn: Samples = outputs["samples"]
        if drawn.rewrites is not None and trainer.is_global_zero:
            counts = batch.mask.repeat_interleave(drawn.group_size)
            self._validated += self._lines(
                drawn, outputs["rewards"], counts.nonzero().flatten().tolist(), before=len(self._validated)
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table of the validation."""
        lines, self._validated = self._validated, []
        if lines and not trainer.sanity_checking:
            self._write(trainer, f"validation-{iteration_of(pl_module):06d}", lines)

    def _lines(self, drawn: Samples, rewards: RewardOutput, rows: list[int], before: int = 0) -> list[Line]:
        """Return lines that keep only the images that are shown, as all of a validation would fill a GPU."""
        shown = rows[: max(self.num_rows - before, 0)]
        images = [to_pil(drawn.images[row]) for row in shown] + [None] * (len(rows) - len(shown))
        return [(table_row(drawn, rewards, row), image) for row, image in zip(rows, images, strict=True)]

    def _write(self, trainer: Trainer, name: str, lines: list[Line]) -> None:
        path = run_folder(trainer) / "rewrites" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [json.dumps(values, ensure_ascii=False) for values, _ in lines]
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            import wandb

            data = [[*values.values(), wandb.Image(image)] for values, image in lines if image]
            kind, _, iteration = name.partition("-")
            table = wandb.Table([*lines[0][0], "image"], data)
            log_media(trainer, {f"rewrites/{kind}": table}, int(iteration))


def table_row(drawn: Samples, rewards: RewardOutput, row: int) -> dict[str, Any]:
    """Return one image of samples with rewrites, as texts and numbers."""
    assert drawn.rewrites is not None
    rewrite = drawn.rewrites[row]
    values = {"reward": rewards.total, **rewards.components}
    numbers = {name: float(value.flatten()[row]) for name, value in values.items()}
    return {
        "prompt": drawn.row_prompts[row],
        "text": rewrite.text,
        "completion": rewrite.completion,
        "formatted": rewrite.formatted,
        "truncated": rewrite.truncated,
        "skipped": rewrite.skipped,
        **{name: None if math.isnan(number) else number for name, number in numbers.items()},
    }
