"""The result of a run on one screen: before and after, in numbers and images."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from realgen.callbacks.export import Export
from realgen.callbacks.image_grid import image_grid
from realgen.callbacks.run_context import callbacks_of, iteration_of, last_checkpoint, run_folder
from realgen.callbacks.sample_logger import log_image
from realgen.callbacks.summary_table import compare, summary_table
from realgen.checks import check_at_least
from realgen.functional.images import from_uint8, to_uint8


class Summary(Callback):
    """Compare the last validation with the first one when the fit ends.

    Writes ``before_after.png`` (the same prompts and seeds side by side) and ``summary.json`` into the run's folder,
    and prints a table, the path of the exported weights and the command to go on. Validate once before the fit to have
    a baseline of the untrained policy. It is in the checkpoint, so a resumed run compares with the same one.

    Args:
        num_images: Most pairs of images, >= 1.
        columns: Pairs per row, >= 1.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, num_images: int = 24, columns: int = 4) -> None:
        check_at_least(1, num_images=num_images, columns=columns)
        self.num_images = num_images
        self.columns = columns
        self.before: dict[str, Any] | None = None
        """The first validation: ``iteration``, ``values``, ``prompts``, ``rewards`` and ``images`` (uint8)."""
        self.after: dict[str, Any] | None = None
        """The last validation, in the same form; None until there was a second one."""
        self._images: list[Tensor] = []
        self._prompts: list[str] = []
        self._rewards: list[float] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the images of the last validation."""
        self._images, self._prompts, self._rewards = [], [], []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keep the first image of each of the first prompts."""
        samples, rewards = outputs["samples"], outputs["rewards"]
        for prompt, text in enumerate(samples.prompts):
            if len(self._images) < self.num_images and bool(batch.mask[prompt]):
                self._images.append(to_uint8(samples.images[prompt * samples.group_size].detach()).cpu())
                self._prompts.append(text)
                self._rewards.append(float(rewards.total[prompt, 0]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep this validation's values."""
        if trainer.sanity_checking or not self._images:
            return
        values = {n.removeprefix("val/"): float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
        seen = {
            "iteration": iteration_of(pl_module),
            "values": values,
            "prompts": self._prompts,
            "rewards": self._rewards,
            "images": torch.stack(self._images),
        }
        if self.before is None:
            self.before = seen
        else:
            self.after = seen

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the pairs of images."""
        if trainer.is_global_zero and self.before is not None and self.after is not None:
            path = run_folder(trainer) / "before_after.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            sheet = before_after_sheet(self.before, self.after, columns=self.columns)
            sheet.save(path)
            log_image(trainer, "before_after", sheet, iteration_of(pl_module))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table and the next commands, and write ``summary.json``."""
        if not trainer.is_global_zero or self.before is None or self.after is None:
            return
        folder, exported = run_folder(trainer), _exported(trainer)
        higher = {name: metric.higher_is_better for name, metric in getattr(pl_module, "metrics", {}).items()}
        comparisons = compare(self.before["values"], self.after["values"], higher_is_better=higher)
        both = {"before": self.before, "after": self.after}
        report = {
            **{key: {"iteration": seen["iteration"], "values": seen["values"]} for key, seen in both.items()},
            "verdicts": {comparison.name: comparison.verdict for comparison in comparisons},
            "exported": None if exported is None else str(exported),
        }
        (folder / "summary.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        iterations = {key: seen["iteration"] for key, seen in both.items()}
        self._print(trainer, summary_table(comparisons, **iterations), exported)

    def state_dict(self) -> dict[str, Any]:
        """Return the baseline."""
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the baseline."""
        self.before = state_dict["before"]

    def _print(self, trainer: Trainer, table: Table, exported: Path | None) -> None:
        console = Console(soft_wrap=True)
        console.print(table)
        folder = run_folder(trainer)
        console.print(f"images     {folder / 'before_after.png'}", highlight=False)
        if exported is not None:
            console.print(f"weights    {exported}", highlight=False)
            for use in ways_to_load(exported):
                console.print(f"  use      {use}", highlight=False, markup=False)
        if last_checkpoint(trainer).exists():
            console.print(f"go on      {go_on_command(trainer)}", highlight=False, markup=False)


def ways_to_load(exported: Path) -> list[str]:
    """Return the calls by which diffusers, PEFT or transformers read an export; one for each policy."""
    if (exported / "pytorch_lora_weights.safetensors").exists():
        return [f"pipeline.load_lora_weights('{exported}')"]
    if (exported / "adapter_model.safetensors").exists():
        return [f"PeftModel.from_pretrained(model, '{exported}')"]
    parts = [part for part in (exported / "rewriter", exported / "images") if part.is_dir()]
    return [use for part in parts for use in ways_to_load(part)] or [f"from_pretrained('{exported}')"]


def go_on_command(trainer: Trainer) -> str:
    """Return the command that trains as long again from the last checkpoint, in the same folder."""
    folder, last = run_folder(trainer), last_checkpoint(trainer)
    usual = last.resolve() == (folder / "checkpoints" / "last.ckpt").resolve()  # Lightning makes its path absolute
    words = ["python", "-m", "realgen.fit", "--config", str(folder / "config.yaml"), f"--run_dir={folder}"]
    words.append(f"--ckpt_path={'last' if usual else last}")
    limits = {"max_epochs": trainer.max_epochs or -1, "max_steps": trainer.max_steps}  # -1: no limit
    return shlex.join([*words, *(f"--trainer.{name}={2 * limit}" for name, limit in limits.items() if limit > 0)])


def before_after_sheet(before: dict[str, Any], after: dict[str, Any], *, columns: int) -> Any:
    """Draw pairs of images of the same prompt and seed, before on the left.

    Args:
        before: ``iteration``, ``prompts``, ``rewards`` and ``images`` (uint8) of the first validation.
        after: The same of the last one.
        columns: Pairs per row.
    """
    images, captions = [], []
    for index in range(min(len(before["images"]), len(after["images"]))):
        for name, seen in (("before", before), ("after", after)):
            images.append(from_uint8(seen["images"][index]))
            caption = f"{name}, iteration {seen['iteration']}\nreward {seen['rewards'][index]:.3f}"
            captions.append(f"{caption}\n{seen['prompts'][index]}" if name == "before" else caption)
    return image_grid(torch.stack(images), captions, columns=2 * min(columns, len(images) // 2))


def _exported(trainer: Trainer) -> Path | None:
    paths = [export.path for export in callbacks_of(trainer, Export)]
    return paths[0] if paths else None
