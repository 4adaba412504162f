"""Images of the rollouts, on disk, in Weights & Biases and in TensorBoard."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image

from realgen.callbacks.image_grid import image_grid, reward_lines
from realgen.callbacks.run_context import iteration_of, run_folder
from realgen.callbacks.wandb_run import log_media
from realgen.checks import check_at_least
from realgen.types import RewardOutput, Samples


class SampleLogger(Callback):
    """Save a sheet of rollout samples with prompt and rewards below each, ``samples/iteration-000010.png``.

    Rank 0 shows its own samples, the first few of each prompt.

    Args:
        every_n_iterations: Iterations between two sheets, >= 1.
        num_images: Most images on a sheet, >= 1.
        columns: Images per row, >= 1.
    """

    def __init__(self, every_n_iterations: int = 10, num_images: int = 12, columns: int = 6) -> None:
        check_at_least(1, every_n_iterations=every_n_iterations, num_images=num_images, columns=columns)
        self.every_n_iterations = every_n_iterations
        self.num_images = num_images
        self.columns = columns

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """Draw the sheet when it is time."""
        iteration = iteration_of(pl_module)
        if iteration % self.every_n_iterations or not trainer.is_global_zero:
            return
        sheet = sample_sheet(outputs["samples"], outputs["rewards"], num_images=self.num_images, columns=self.columns)
        path = run_folder(trainer) / "samples" / f"iteration-{iteration:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
        log_image(trainer, "samples", sheet, iteration)


def sample_sheet(samples: Samples, rewards: RewardOutput, *, num_images: int, columns: int) -> Image.Image:
    """Draw the first samples of each prompt, as many of each prompt as fit, with their rewrites if there are any."""
    prompts = min(len(samples.prompts), num_images)
    each = min(samples.group_size, num_images // prompts)
    rows = [prompt * samples.group_size + sample for prompt in range(prompts) for sample in range(each)]
    prompts_of, texts = samples.row_prompts, samples.row_texts
    titles = [prompts_of[row] if samples.rewrites is None else f"{prompts_of[row]}\nas: {texts[row]}" for row in rows]
    captions = [f"{text}\n{reward_lines(rewards, row)}" for text, row in zip(titles, rows, strict=True)]
    images = samples.images[torch.tensor(rows, device=samples.images.device)]
    return image_grid(images, captions, columns=min(columns, len(rows)))


def log_image(trainer: Trainer, name: str, image: Image.Image, iteration: int) -> None:
    """Send an image to the Weights & Biases and TensorBoard loggers of the trainer, if there are any."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):  # where the numbers stand, whose step is the iteration
            logger.experiment.add_image(name, np.asarray(image), iteration, dataformats="HWC")
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        import wandb

        log_media(trainer, {name: [wandb.Image(image)]}, iteration)
