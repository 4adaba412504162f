"""The report of a run, kept current while it goes: one page, and the pictures and warnings that it shows."""

import json
import logging
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from realgen.benchmark.comparison.runs import training_run
from realgen.benchmark.report.page import REPORT_FILE
from realgen.benchmark.report.run_page import LINES, PICTURES, WARNINGS, by_iteration, write_run_report
from realgen.callbacks.image_grid import MAX_WIDTH, to_pil
from realgen.callbacks.run_context import fits, iteration_of, run_folder
from realgen.checks import check_at_least
from realgen.data.prompt_text import trace
from realgen.logging_filters import Truncations
from realgen.masking import mask
from realgen.tables import one_line
from realgen.whole_files import write_whole

_WATCHED = ("realgen", "diffusers", "transformers", "lightning.pytorch")  # loggers whose warnings a run keeps


class Report(Callback):
    """Write ``report.html`` into the run's folder after each validation of a fit, now and then, and at its good end.

    It is made of the files that other callbacks and loggers leave there (``csv``, ``validation.csv``, ``rewrites``,
    ``summary.json``, ``config.yaml``), so a run that goes on has the same page. What it keeps itself: the first picture
    of the first held-out prompts at each validation as ``pictures/iteration-000010/000-a-red-fox.jpg``, at most 512
    pixels wide, and ``warnings.txt``. In the config it stands behind the callbacks whose files it reads.

    Args:
        num_prompts: Held-out prompts of which pictures are kept, >= 1; of the first process.
        every_n_iterations: Iterations after which the page is written between validations, >= 1.
    """

    def __init__(self, num_prompts: int = 48, every_n_iterations: int = 10) -> None:
        check_at_least(1, num_prompts=num_prompts, every_n_iterations=every_n_iterations)
        self.num_prompts = num_prompts
        self.every_n_iterations = every_n_iterations
        self._pictures: list[tuple[Any, dict[str, Any]]] = []
        self._handler: _Warnings | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to keep what the run is warned of."""
        if self._handler is None and trainer.is_global_zero:
            self._handler = _Warnings(run_folder(trainer) / WARNINGS)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End it."""
        if self._handler is not None:
            self._handler.end()
            self._handler = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the pictures of validations that are still to come."""
        if trainer.is_global_zero:
            for iteration, folder in by_iteration(run_folder(trainer) / PICTURES).items():
                if iteration > iteration_of(pl_module):
                    shutil.rmtree(folder)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Write the page when it is time."""
        if iteration_of(pl_module) % self.every_n_iterations == 0:
            self._write(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keep the first picture of each of the first prompts."""
        samples, rewards = outputs["samples"], outputs["rewards"].total
        for prompt in batch.mask.nonzero().flatten().tolist():
            if len(self._pictures) >= self.num_prompts or not trainer.is_global_zero:
                return
            row, reward = prompt * samples.group_size, float(rewards[prompt, 0])
            picture = to_pil(samples.images[row])
            picture.thumbnail((MAX_WIDTH, MAX_WIDTH))
            text = None if samples.rewrites is None else samples.row_texts[row]
            file = f"{len(self._pictures):03d}-{trace(batch.prompts[prompt])}.jpg"
            line = {"key": batch.keys[prompt], "prompt": batch.prompts[prompt], "text": text, "file": file}
            self._pictures.append((picture, {**line, "reward": reward if reward == reward else None}))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the pictures and the page."""
        pictures, self._pictures = self._pictures, []
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        folder = run_folder(trainer) / PICTURES / f"iteration-{iteration_of(pl_module):06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for picture, line in pictures:
            picture.save(folder / line["file"], quality=95, subsampling=0)
        lines = (f"{json.dumps(line, ensure_ascii=False)}\n" for _, line in pictures)
        write_whole(folder / LINES, "".join(lines).encode())
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page of the whole run."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        folder = run_folder(trainer)
        if fits(trainer) and trainer.is_global_zero and (folder / "config.yaml").is_file():
            title = f"Run {folder.resolve().parent.name}/{folder.resolve().name}"
            write_run_report({"": [training_run(folder)]}, folder / REPORT_FILE, title=title)


class _Warnings(logging.Handler):
    """Adds each different warning to ``warnings.txt``, once, on one line; what the terminal shows stays as it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(Truncations())
        self._path = path
        self._kept: set[str] = set()
        self._show = warnings.showwarning
        warnings.showwarning = self._hear = self.hear
        for name in _WATCHED:
            logging.getLogger(name).addHandler(self)

    def end(self) -> None:
        """Hear no more; what has wrapped ``warnings.showwarning`` since stays."""
        for name in _WATCHED:
            logging.getLogger(name).removeHandler(self)
        if warnings.showwarning is self._hear:
            warnings.showwarning = self._show

    def hear(self, message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        """Keep what ``warnings.warn`` is about to show, and show it as it would have been."""
        self.handle(logging.LogRecord("py.warnings", logging.WARNING, "", 0, str(message), (), None))
        self._show(message, category, *place, **options)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning; of a full disk this may be the very news, and an error here would end the run."""
        line = one_line(mask(record.getMessage()))
        if line in self._kept:
            return
        try:
            with self._path.open("a+", encoding="utf-8", errors="replace") as file:
                file.seek(0)  # an earlier start or a forked loader of data may have kept it
                if line not in file.read().splitlines():
                    file.write(f"{line}\n")
                self._kept.add(line)
        except (OSError, ValueError):
            with suppress(OSError):
                if not self._path.stat().st_size:  # what a full disk leaves
                    self._path.unlink()
