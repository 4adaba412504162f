"""Pictures of the rollouts, on disk and in Weights & Biases."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from realgen.callbacks.picture_grid import picture_grid, reward_lines
from realgen.callbacks.run_context import iteration_of, run_folder
from realgen.types import RewardOutput, Samples


class SampleLogger(Callback):
    """Saves a sheet of rollout samples with prompt and rewards below each, ``samples/iteration-000010.png``.

    Rank 0 shows its own samples, the first few of each prompt.

    Args:
        every_n_iterations: Iterations between two sheets, >= 1.
        num_images: Most pictures on a sheet, >= 1.
        columns: Pictures per row, >= 1.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, every_n_iterations: int = 10, num_images: int = 12, columns: int = 6) -> None:
        for name, value in (
            ("every_n_iterations", every_n_iterations),
            ("num_images", num_images),
            ("columns", columns),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.every_n_iterations = every_n_iterations
        self.num_images = num_images
        self.columns = columns

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the sheet when it is time."""
        iteration = iteration_of(pl_module)
        if iteration % self.every_n_iterations or not trainer.is_global_zero:
            return
        sheet = sample_sheet(outputs["samples"], outputs["rewards"], num_images=self.num_images, columns=self.columns)
        path = run_folder(trainer) / "samples" / f"iteration-{iteration:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
        log_picture(trainer, "samples", sheet, iteration)


def sample_sheet(samples: Samples, rewards: RewardOutput, *, num_images: int, columns: int) -> Image.Image:
    """The first samples of each prompt, as many of each prompt as fit, with their rewrites if there are any.

    Args:
        samples: P prompts with G images each.
        rewards: Of the samples.
        num_images: Most pictures; prompts beyond that are left out.
        columns: Pictures per row.
    """
    prompts = min(len(samples.prompts), num_images)
    each = min(samples.group_size, num_images // prompts)
    rows = [prompt * samples.group_size + sample for prompt in range(prompts) for sample in range(each)]
    prompts_of, texts = samples.row_prompts, samples.row_texts
    told = [prompts_of[row] if samples.rewrites is None else f"{prompts_of[row]}\nas: {texts[row]}" for row in rows]
    captions = [f"{text}\n{reward_lines(rewards, row)}" for text, row in zip(told, rows, strict=True)]
    images = samples.images[torch.tensor(rows, device=samples.images.device)]
    return picture_grid(images, captions, columns=min(columns, len(rows)))


def log_picture(trainer: Trainer, name: str, picture: Image.Image, iteration: int) -> None:
    """Send a picture to the Weights & Biases loggers of the trainer, if there are any."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=iteration)
