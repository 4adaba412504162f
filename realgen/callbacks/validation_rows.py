"""The rewards and metrics of every held-out image at every validation, which ``realgen.compare`` pairs by prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from realgen.callbacks.run_context import iteration_of, run_folder
from realgen.metrics import MeanRealism
from realgen.parallel import world_size
from realgen.tables import csv_bytes, read_csv
from realgen.types import RewardOutput
from realgen.whole_files import write_whole

Row = dict[str, Any]


class ValidationRows(Callback):
    """Write one row per image of each validation to ``validation.csv`` in the run's folder.

    ``iteration``, ``images`` (drawn in training so far, by all ranks) and ``seconds`` (of the phases of the iterations
    so far; validation and checkpoints are left out) are the time of the measurement; ``key``, ``sample`` and ``seed``
    identify the image: the same three are the same prompt on the same noise in every run. ``prompt`` is for readers.
    Then come the ``reward``, its components as ``reward/<component>``, and each ``MeanRealism`` (of a detector or
    probe) among the metrics under its own name. Higher is better in all of them; a reward that failed leaves its cell
    empty.

    Images and seconds are in the checkpoint. A run that goes on from an earlier checkpoint, or begins once more, drops
    the rows of later validations.
    """

    def __init__(self) -> None:
        self.images = 0
        """Images drawn in training so far."""
        self.seconds = 0.0
        """Seconds of training so far."""
        self._rows: list[Row] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the rows of validations that are still to come."""
        path = run_folder(trainer) / "validation.csv"
        if trainer.is_global_zero and path.exists():
            write_rows(path, [], iteration=iteration_of(pl_module) + 1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """Count the iteration."""
        self.images += len(outputs["samples"].images) * world_size()
        values = trainer.callback_metrics
        self.seconds += sum(float(value) for name, value in values.items() if name.startswith("seconds/"))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Add the images of one batch, without padding."""
        rewards, samples = outputs["rewards"], outputs["samples"].group_size
        scored = {n: m for n, m in getattr(pl_module, "metrics", {}).items() if n not in outputs.get("failed", ())}
        metrics = image_values(rewards, scored, batch.mask, samples)
        when = {"iteration": iteration_of(pl_module), "images": self.images, "seconds": round(self.seconds, 3)}
        for prompt in batch.mask.nonzero().flatten().tolist():
            for sample in range(samples):
                seed = outputs["seeds"][prompt * samples + sample]
                which = {"key": batch.keys[prompt], "sample": sample, "seed": seed, "prompt": batch.prompts[prompt]}
                values = {name: each[prompt, sample].item() for name, each in metrics.items()}
                self._rows.append({**when, **which, **values})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the rows of all ranks."""
        rows, self._rows = gather_rows(self._rows), []
        if trainer.is_global_zero and rows and not trainer.sanity_checking:
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            write_rows(folder / "validation.csv", rows, iteration=iteration_of(pl_module))

    def state_dict(self) -> dict[str, Any]:
        """Return images and seconds so far."""
        return {"images": self.images, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore images and seconds."""
        self.images, self.seconds = state_dict["images"], state_dict["seconds"]


def image_values(
    rewards: RewardOutput, metrics: Mapping[str, Any], mask: torch.Tensor, samples: int
) -> dict[str, torch.Tensor]:
    """Return rewards and detectors' scores of the batch that metrics saw last, [P, samples] by name; padding: NaN."""
    values = {"reward": rewards.total, **{f"reward/{name}": value for name, value in rewards.components.items()}}
    for name, metric in metrics.items():
        if isinstance(metric, MeanRealism):
            realism = torch.full((len(mask), samples), torch.nan)
            # One entry per sample of the batch, each with the prompts that are no padding.
            realism[mask.cpu()] = 1 - torch.stack(list(metric.generated[-samples:]), 1).float().cpu()
            values[name] = realism
    return values


def gather_rows(rows: list[Row]) -> list[Row]:
    """Return the rows of all ranks, in the order of key and sample."""
    gathered = [rows]
    if world_size() > 1:
        gathered = [[] for _ in range(world_size())]
        torch.distributed.all_gather_object(gathered, rows)
    everywhere = [row for each in gathered for row in each]
    return sorted(everywhere, key=lambda row: (row["key"], row["sample"]))


def write_rows(path: Path, rows: Sequence[Row], *, iteration: int) -> None:
    """Add rows to a CSV file, whole or not at all, in place of this iteration's and later ones; NaN is empty."""
    kept: list[Row] = []
    if path.exists():
        kept = [row for row in read_csv(path)[1] if int(row["iteration"]) < iteration]
    if not kept and not rows:
        path.unlink(missing_ok=True)
        return
    # A run that goes on with another reward has other columns.
    columns = dict.fromkeys(name for row in (*kept[:1], *rows[:1]) for name in row)
    cells = ([row.get(name, "") for name in columns] for row in (*kept, *rows))
    write_whole(path, csv_bytes([columns, *cells]))
