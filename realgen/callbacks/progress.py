"""A progress bar of iterations, and of the phase inside one.

Not a subclass of Lightning's ``TQDMProgressBar``: that one counts batches of an epoch, so every hook would be replaced.
"""

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from realgen.callbacks.run_context import iteration_of, trained_of
from realgen.checks import check_at_least
from realgen.policies.base import Policy
from realgen.progress import now_doing, on_terminal


class IterationProgress(ProgressBar):
    """Show iteration, reward and its components, and below them the current phase of the iteration.

    Of a detector's training it shows loss and accuracy. Where the output is no terminal, it prints a line after the
    first iteration and every few, with the time that is left; between them see ``realgen.progress.at_work``. Rank 0.

    Args:
        every_n_iterations: Iterations between two lines without a terminal, >= 1.
    """

    def __init__(self, every_n_iterations: int = 10) -> None:
        check_at_least(1, every_n_iterations=every_n_iterations)
        super().__init__()
        self.every_n_iterations = every_n_iterations
        self._enabled = True
        self._bar: Any = None
        self._phase: Any = None
        self._phase_name = ""
        self._where = ""
        self._first = 1
        self._last_line = (0, 0.0)
        self._validation_start = 0.0

    def disable(self) -> None:
        """Show nothing; Lightning calls this on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the run's current iteration."""
        iteration = iteration_of(pl_module)
        self._first = iteration + 1
        self._last_line = (iteration, time.monotonic())
        self._begin(iteration, pl_module)
        if self._on_terminal:
            self._bar = tqdm(total=self._total, initial=iteration, desc="iteration", dynamic_ncols=True, smoothing=0.1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Advance the bar, or print a line."""
        iteration = iteration_of(pl_module)
        metrics = trainer.callback_metrics
        names = ["reward", *sorted(name for name in metrics if name.startswith("reward/")), "loss", "accuracy"]
        values = {name.removeprefix("reward/"): float(metrics[name]) for name in names if name in metrics}
        rewards = {name: f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3g}" for name, value in values.items()}
        if self._bar is not None:
            self._bar.set_postfix(rewards, refresh=False)
            self._bar.update(iteration - self._bar.n)
        elif self._enabled and (iteration % self.every_n_iterations == 0 or iteration in (self._first, self._total)):
            self._print_line(iteration, rewards)
        self._begin(iteration, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error is printed below it."""
        self._close(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the sampling of validation images, before the fit too."""
        self._validation_start = time.monotonic()
        self._begin(iteration_of(pl_module), pl_module)
        if self._enabled and not self._on_terminal:
            print(f"iteration {iteration_of(pl_module)}: validation", flush=True)
            now_doing(f"iteration {iteration_of(pl_module)}: validation", printed=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the validation from the time per iteration."""
        iteration, then = self._last_line
        self._last_line = (iteration, then + time.monotonic() - self._validation_start)
        if self._bar is not None:
            self._bar.unpause()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Show the validation's progress."""
        total = sum(trainer.num_val_batches) if isinstance(trainer.num_val_batches, list) else trainer.num_val_batches
        if self._enabled and math.isfinite(total):
            self.show_phase("validation", batch_idx + 1, int(total))

    def show_phase(self, phase: str, done: int, total: int) -> None:
        """Show how much of a phase ("rollout", "update", "sample", "validation") is done; a full bar is removed."""
        if not self._on_terminal:
            now_doing(f"{self._where}: {phase} {done}/{total}")
            return
        if self._phase is not None and (self._phase_name != phase or done < self._phase.n):
            self._phase.close()
            self._phase = None
        if self._phase is None:
            style = {"bar_format": "  {l_bar}{bar}", "dynamic_ncols": True, "mininterval": 0}
            self._phase = tqdm(total=total, desc=phase, leave=False, position=1, **style)
            self._phase_name = phase
        self._phase.update(done - self._phase.n)
        if done >= total:
            self._phase.close()
            self._phase = None

    def _begin(self, iteration: int, module: Any) -> None:
        self._where = f"after iteration {iteration}"
        if self._enabled and isinstance(trained_of(module), Policy):
            module.progress = self.show_phase

    @property
    def _on_terminal(self) -> bool:
        return self._enabled and on_terminal()

    @property
    def _total(self) -> int | None:
        """Return the iterations of the whole run; None if it has no end."""
        epochs, batches = self.trainer.max_epochs, self.trainer.num_training_batches
        return int(epochs * batches) if epochs is not None and epochs >= 0 and math.isfinite(batches) else None

    def _close(self, module: Any) -> None:
        if isinstance(trained_of(module), Policy):
            module.progress = None
        for bar in (self._phase, self._bar):
            if bar is not None:
                bar.close()
        self._phase = self._bar = None

    def _print_line(self, iteration: int, rewards: dict[str, str]) -> None:
        since, then = self._last_line
        self._last_line = (iteration, time.monotonic())
        seconds = (self._last_line[1] - then) / max(1, iteration - since)
        total = "" if self._total is None else f"/{self._total}"
        texts = "  ".join(f"{name} {value}" for name, value in rewards.items())
        left = "" if self._total is None else f"  {duration(seconds * (self._total - iteration))} left"
        print(f"iteration {iteration}{total}  {texts}  {seconds:.1f} s/iteration{left}", flush=True)
        now_doing(f"after iteration {iteration}{total}", printed=True)


def duration(seconds: float) -> str:
    """Write a duration for a reader."""
    if seconds < 5400:
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
