"""The result of a run on one screen: before and after, in numbers and images."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.table import Table
from rich.text import Text
from scipy.special import stdtrit
from torch import Tensor

from realgen.benchmark.report.page import REPORT_FILE
from realgen.callbacks.best_checkpoint import BestCheckpoint
from realgen.callbacks.closing_screen import ClosingScreen, exported, print_end
from realgen.callbacks.image_grid import image_grid
from realgen.callbacks.report import Report
from realgen.callbacks.run_context import callbacks_of, iteration_of, last_checkpoint, run_folder
from realgen.callbacks.sample_logger import log_image
from realgen.callbacks.validation_rows import gather_rows, image_values
from realgen.checkpoint_files import BEST
from realgen.checks import check_at_least
from realgen.functional.bootstrap import bootstrap_mean
from realgen.functional.estimate import Estimate, Verdict
from realgen.functional.images import from_uint8, to_uint8
from realgen.metrics.base import jackknife_error
from realgen.tables import VERDICT_STYLES, Cell, styled, terminal_table
from realgen.whole_files import write_whole, written_whole

TITLE = "held-out prompts; the interval of a change is over prompts, paired, of this seed"


class Summary(ClosingScreen):
    """Compare the last validation with the first one when the fit ends; show it alone where it was the only one.

    Writes ``before_after.png`` (the same prompts and seeds side by side) and ``summary.json`` into the run's folder,
    and prints a table, the path of the exported weights and the command to go on. Validate once before the fit to have
    a baseline of the untrained policy.

    Args:
        num_images: Most pairs of images, >= 1.
        columns: Pairs per row, >= 1.
    """

    def __init__(self, num_images: int = 24, columns: int = 4) -> None:
        super().__init__()
        check_at_least(1, num_images=num_images, columns=columns)
        self.num_images = num_images
        self.columns = columns
        self._images: list[Tensor] = []
        self._prompts: list[str] = []
        self._rewards: list[float] = []
        self._rows: list[dict[str, Any]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the images of the last validation."""
        self._images, self._prompts, self._rewards, self._rows = [], [], [], []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keep the first image of each of the first prompts, and the mean of each metric over each prompt's images."""
        samples, rewards = outputs["samples"], outputs["rewards"]
        metrics = image_values(rewards, getattr(pl_module, "metrics", {}), batch.mask, samples.group_size)
        means = {name: values.nanmean(1).tolist() for name, values in metrics.items()}
        for prompt in batch.mask.nonzero().flatten().tolist():
            row = {name: values[prompt] for name, values in means.items()}
            self._rows.append({"key": batch.keys[prompt], "sample": 0, **row})
        for prompt, text in enumerate(samples.prompts):
            if len(self._images) < self.num_images and bool(batch.mask[prompt]):
                self._images.append(to_uint8(samples.images[prompt * samples.group_size].detach()).cpu())
                self._prompts.append(text)
                self._rewards.append(float(rewards.total[prompt, 0]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep this validation's values."""
        rows = gather_rows(self._rows)  # on every rank
        if trainer.sanity_checking or not rows:
            return
        values = {n.removeprefix("val/"): float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
        validation = getattr(pl_module, "validation", None)
        seen = {  # images in uint8
            "iteration": iteration_of(pl_module),
            "values": values,
            "by_prompt": {n: {row["key"]: row[n] for row in rows} for n in rows[0] if n not in ("key", "sample")},
            "without_each": {} if validation is None else validation.without_each,
            "prompts": self._prompts,
            "rewards": self._rewards,
            "images": torch.stack(self._images) if self._images else torch.empty(0),  # a rank may have padding alone
        }
        self.keep(seen)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the pairs of images, while the loggers are open."""
        if trainer.is_global_zero and self.before is not None:
            log_image(trainer, "before_after", self._sheet(self.before), iteration_of(pl_module))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the images and ``summary.json``, and print the table and the next commands."""
        if not trainer.is_global_zero:
            return
        folder, path = run_folder(trainer), exported(trainer)
        table, drawn = None, None
        if self.before is not None:
            folder.mkdir(parents=True, exist_ok=True)
            drawn = folder / "before_after.png"
            with written_whole(drawn) as unfinished:
                self._sheet(self.before).save(unfinished, format="PNG")
            higher = {name: metric.higher_is_better for name, metric in getattr(pl_module, "metrics", {}).items()}
            seen = {"before": self.before, "after": self.after} if self.after else {"after": self.before}
            comparisons = compare(
                self.before["values"],
                seen["after"]["values"],
                higher_is_better=higher,
                differences=paired_differences(self.before, seen["after"]),
            )
            report = {
                **{key: {"iteration": each["iteration"], "values": each["values"]} for key, each in seen.items()},
                "verdicts": {each.name: each.verdict for each in comparisons} if self.after else {},
                "intervals": {e.name: (e.difference.low, e.difference.high) for e in comparisons} if self.after else {},
                "best": next((best.state_dict() for best in _best(trainer)), None),
                "exported": None if path is None else str(path),
            }
            write_whole(folder / "summary.json", (json.dumps(report, indent=2) + "\n").encode())
            first = self.before["iteration"] if self.after else None
            table = summary_table(comparisons, before=first, after=seen["after"]["iteration"])
        lines: list[tuple[str, object]] = [] if table is None else [("images", drawn)]
        lines += [("report", folder / REPORT_FILE)] if callbacks_of(trainer, Report) else []
        for best in _best(trainer):
            lines.append(("best", last_checkpoint(trainer).with_name(BEST)))
            lines.append(("  by", f"{best.metric} {number(best.value or 0)} at iteration {best.iteration}"))
        print_end(trainer, [] if table is None else [table], lines, ways_to_load)

    def is_written(self, folder: Path) -> bool:
        """Return whether a folder holds images and summary of the last validation."""
        last = self.after or self.before
        if last is None or not ((folder / "before_after.png").exists() and (folder / "summary.json").exists()):
            return last is None
        try:
            return json.loads((folder / "summary.json").read_text())["after"]["iteration"] == last["iteration"]
        except (ValueError, KeyError, TypeError):
            return False

    def _sheet(self, before: dict[str, Any]) -> Any:
        return before_after_sheet(before, self.after, columns=self.columns)


def ways_to_load(exported: Path) -> list[str]:
    """Return the calls by which diffusers, PEFT or transformers read an export; one for each policy."""
    if (exported / "pytorch_lora_weights.safetensors").exists():
        return [f"pipeline.load_lora_weights('{exported}')"]
    if (exported / "adapter_model.safetensors").exists():
        return [f"PeftModel.from_pretrained(model, '{exported}')"]
    parts = [part for part in (exported / "rewriter", exported / "images") if part.is_dir()]
    return [use for part in parts for use in ways_to_load(part)] or [f"from_pretrained('{exported}')"]


def before_after_sheet(before: dict[str, Any], after: dict[str, Any] | None, *, columns: int) -> Any:
    """Draw pairs of images of the same prompt and seed, before on the left; without ``after`` the first ones alone."""
    images, captions = [], []
    sides = {"before": before, "after": after} if after is not None else {"": before}
    for index in range(min(len(seen["images"]) for seen in sides.values())):
        for side, (name, seen) in enumerate(sides.items()):
            images.append(from_uint8(seen["images"][index]))
            caption = f"{name}, iteration {seen['iteration']}\nreward {seen['rewards'][index]:.3f}".removeprefix(", ")
            captions.append(f"{caption}\n{seen['prompts'][index]}" if side == 0 else caption)
    return image_grid(torch.stack(images), captions, columns=len(sides) * min(columns, len(images) // len(sides)))


def _best(trainer: Trainer) -> list[BestCheckpoint]:
    return [best for best in callbacks_of(trainer, BestCheckpoint) if best.value is not None]


@dataclass(frozen=True)
class Comparison:
    """One metric before and after."""

    name: str
    """Name under ``val/``."""
    rewarded: bool
    """Whether the policy was trained on it."""
    before: float
    after: float
    higher_is_better: bool | None
    """None where it is unknown."""
    difference: Estimate
    """After minus before, as ``paired_differences`` gives it."""

    @property
    def verdict(self) -> Verdict | Literal["unknown"]:
        """Return whether it improved."""
        if self.higher_is_better is None or math.isnan(self.before) or math.isnan(self.after):
            return "unknown"
        return self.difference.verdict(higher_is_better=self.higher_is_better)


def paired_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Estimate]:
    """Estimate by how much each metric changed, with its 95 % interval over prompts.

    Args:
        before: Of a validation: ``values`` by metric; ``by_prompt``, of the metrics that are means over images, the
            mean of each prompt by its key, which gives a bootstrap interval; ``without_each``, of the others, the
            value without each group of prompts, which gives jackknife errors, taken as often to each side as Student's
            t of one degree of freedom less than groups asks for.
        after: The same of a later validation. Prompts without a finite value in both are left out.
    """
    found = {}
    for name in before["values"].keys() & after["values"].keys():
        # A checkpoint of an earlier version has neither.
        old, new = (each.get("by_prompt", {}).get(name, {}) for each in (before, after))
        changes = [new[key] - old[key] for key in sorted(old.keys() & new.keys())]
        finite = [change for change in changes if math.isfinite(change)]
        if finite:
            found[name] = bootstrap_mean(torch.tensor(finite, dtype=torch.float64))
            continue
        one, two = (torch.tensor(each.get("without_each", {}).get(name, [])) for each in (before, after))
        change, error = after["values"][name] - before["values"][name], math.nan
        keys = [each.get("by_prompt", {}).get("reward", {}).keys() for each in (before, after)]
        if len(one) == len(two) and keys[0] == keys[1]:  # of other prompts the values do not pair
            error = stdtrit(len(one) - 1, 0.975) * jackknife_error(two.double() - one.double())
        told = math.isfinite(error)
        found[name] = Estimate(change, change - error if told else None, change + error if told else None, len(one))
    return found


def compare(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    higher_is_better: Mapping[str, bool | None],
    differences: Mapping[str, Estimate],
) -> list[Comparison]:
    """Pair the metrics that two validations have: rewards (higher is better), then those of ``higher_is_better``."""
    rewarded = {name: name.split("/")[0] == "reward" for name in before if name in after}
    found = []
    for name, is_reward in sorted(rewarded.items(), key=lambda item: (not item[1], item[0])):
        higher, difference = True if is_reward else higher_is_better.get(name), differences.get(name, Estimate(None))
        found.append(Comparison(name, is_reward, before[name], after[name], higher, difference))
    return found


def summary_table(comparisons: list[Comparison], *, before: int | None, after: int) -> Table:
    """Return the comparisons as a table for the terminal, under the iterations; without ``before`` the last alone."""
    headings: list[Cell] = ["metric", f"iteration {after}"]
    if before is not None:  # in 80 columns, names and numbers are not cut
        headings[1:] = [*(Text(f"iteration\n{each}") for each in (before, after)), "change", "its 95 % interval"]
    rows: list[list[Cell]] = []
    for index, comparison in enumerate(comparisons):
        if index == 0 or comparison.rewarded != comparisons[index - 1].rewarded:
            rows.append(styled("bold", "rewarded" if comparison.rewarded else "never rewarded"))
        if before is None:
            rows.append([f"  {comparison.name.removeprefix('reward/')}", number(comparison.after)])
            continue
        change = comparison.after - comparison.before
        told = comparison.verdict in ("better", "worse")
        arrow = ("↑ " if change > 0 else "↓ ") if told else ""
        difference = comparison.difference
        ends = [number(end) for end in (difference.low, difference.high) if end is not None]
        numbers = (number(comparison.before), number(comparison.after), ("+" if change > 0 else "") + number(change))
        verdict = Text(f"{arrow}{comparison.verdict}", VERDICT_STYLES[comparison.verdict])
        cell = Text("\n").join([verdict, *([Text(f"[{', '.join(ends)}]")] if ends else [])])
        rows.append([f"  {comparison.name.removeprefix('reward/')}", *numbers, cell])
    return terminal_table(headings, rows, title=TITLE, text_columns=(0, 4))


def number(value: float) -> str:
    """Write a number in three significant digits, or three places where it is between 0.1 and 100; NaN as nothing."""
    if math.isnan(value):
        return ""
    return f"{value:.3f}" if 0.1 <= round(abs(value), 3) < 100 or value == 0 else f"{value:.3g}"
