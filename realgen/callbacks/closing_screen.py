"""What the callbacks have in common that show the result of a run: two validations, and how to go on."""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.console import Console

from realgen.callbacks.export import Export
from realgen.callbacks.run_context import callbacks_of, last_checkpoint, run_folder
from realgen.checkpoint_files import FOLDER


class ClosingScreen(Callback):
    """Keep the first validation and the last one; both are in the checkpoint, so a resumed run compares the same."""

    def __init__(self) -> None:
        self.before: dict[str, Any] | None = None
        """The first validation: ``iteration`` and what else is kept of it."""
        self.after: dict[str, Any] | None = None
        """The last validation, in the same form; None until there was a second one."""

    def keep(self, seen: dict[str, Any]) -> None:
        """Keep a validation."""
        if self.before is None:
            self.before = seen
        else:
            self.after = seen

    def is_written(self, folder: Path) -> bool:
        """Return whether a folder holds all that is written of the last validation; nothing is, of none."""
        return self.before is None

    def state_dict(self) -> dict[str, Any]:
        """Return the first validation and the last one."""
        return {"before": self.before, "after": self.after}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the validations; a checkpoint of an earlier version has the first one alone."""
        self.before, self.after = state_dict["before"], state_dict.get("after")


def exported(trainer: Trainer) -> Path | None:
    """Return the path of the run's export, if it has made one."""
    return next((export.path for export in callbacks_of(trainer, Export)), None)


def print_end(
    trainer: Trainer, result: Iterable[Any], lines: list[tuple[str, object]], uses: Callable[[Path], list[str]]
) -> None:
    """Print the result, ``lines`` (name and text) of what was written, ``uses`` of an export, and how to go on."""
    path = exported(trainer)
    if path is not None:
        lines += [("weights", path), *(("  use", use) for use in uses(path))]
    if last_checkpoint(trainer).exists():
        lines.append(("go on", go_on_command(trainer)))
    console = Console(soft_wrap=True)
    for each in result:
        console.print(each)
    for name, text in lines:
        console.print(f"{name:<11}{text}", highlight=False, markup=False)


def go_on_command(trainer: Trainer) -> str:
    """Return the command that trains as long again from the last checkpoint, in the same folder."""
    folder, last = run_folder(trainer), last_checkpoint(trainer)
    words = ["python", "-m", "realgen.fit", "--config", str(folder / "config.yaml"), f"--run_dir={folder}"]
    words.append(f"--ckpt_path={'last' if last.is_relative_to(folder / FOLDER) else last}")
    return shlex.join([*words, *doubled_limits(trainer)])


def doubled_limits(trainer: Trainer) -> list[str]:
    """Return the flags with which a run that has ended trains as long again."""
    limits = {"max_epochs": trainer.max_epochs or -1, "max_steps": trainer.max_steps}  # -1: no limit
    return [f"--trainer.{name}={2 * limit}" for name, limit in limits.items() if limit > 0]
