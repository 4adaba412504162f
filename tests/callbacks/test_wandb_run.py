"""A run of Weights & Biases over several starts, as it lies on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback

from realgen.callbacks.wandb_run import RECORD, identity_of, keep_identity, log_media
from tests.cli.conftest import RECIPE, run
from tests.helpers.forked import forked
from tests.helpers.wandb_records import history, of_kind

WANDB = "{wandb: {class_path: lightning.pytorch.loggers.WandbLogger, init_args: {project: p, offline: true}}}"


class Painter(Callback):
    """Counts the iterations, logs a table with an image of each, and ends one of them by a signal.

    Args:
        signal: Number of the signal.
        at: The iteration that it comes in; 0 for none.
    """

    def __init__(self, signal: int = 15, at: int = 0) -> None:
        self.signal, self.at = signal, at

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        pl_module.iteration = trainer.global_step + 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        import wandb

        pl_module.log("iteration", float(pl_module.iteration))
        table = wandb.Table(["x", "image"], [[1, wandb.Image(np.full((8, 8, 3), pl_module.iteration, np.uint8))]])
        log_media(trainer, {"rewrites": table}, pl_module.iteration)
        if pl_module.iteration == self.at:
            os.kill(os.getpid(), self.signal)


def start(folder: Path, code: int, *words: str) -> Path:
    """Run the small recipe in a process with a home of its own; returns the newest offline run."""
    (folder / "toy.yaml").write_text(RECIPE)
    argv = ["--config=toy.yaml", f"--loggers={WANDB}", "--run_dir=exp/mine", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "XDG_"))}
    environment |= {"HOME": str(folder / "home")}
    ended = forked(lambda: run(argv), folder, environment=environment)
    assert ended.returncode == code, ended.stderr
    return max((folder / "exp" / "mine" / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)


@pytest.mark.slow
@pytest.mark.parametrize(("signal", "code"), [(15, 143), (10, 138)])
def test_a_stopped_run_goes_on_as_one(signal: int, code: int, tmp_path: Path) -> None:
    painter = f"{{class_path: {__name__}.Painter, init_args: {{signal: {signal}, at: 6}}}}"
    words = ["--callbacks.preemption=realgen.callbacks.Preemption", f"--callbacks.painter={painter}"]
    first = start(tmp_path, code, *words)
    second = start(tmp_path, 0, *words, "--callbacks.painter.at=0", "--ckpt_path=last")
    runs = [of_kind(folder, "run")[0] for folder in (first, second)]
    assert first != second
    assert runs[0].run_id == runs[1].run_id == json.loads((tmp_path / "exp/mine" / RECORD).read_text())["id"]
    assert runs[0].run_id.startswith("toy-mine-")
    for each in runs:
        assert (each.display_name, each.run_group, each.job_type) == ("toy-mine", "toy", "train")
        assert list(each.tags) == ["Model", "SGD", "Weighted"]
    # It ends as it ended, and the x-axis and W&B's steps go on.
    assert [of_kind(folder, "exit")[0].exit_code for folder in (first, second)] == [code, 0]
    assert [len(of_kind(folder, "preempting")) for folder in (first, second)] == [1, 0]
    rows = [row for folder in (first, second) for row in history(folder)]
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
    assert [row["iteration"] for row in rows if "rewrites" in row] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all("iteration" in row for row in rows[1:])
    axis = [metric.step_metric for metric in of_kind(second, "metric") if metric.glob_name == "*"]
    assert axis[-1] == "iteration"
    # All of it lies in the run's folder.
    staged = [entry.local_path for table in of_kind(first, "artifact") for entry in table.manifest.contents]
    assert staged
    assert all(Path(path).is_relative_to(tmp_path / "exp" / "mine") for path in staged)
    assert not [path for path in (tmp_path / "home").rglob("*") if "wandb" in str(path.relative_to(tmp_path))]


def test_the_identity_of_a_folder_is_kept(tmp_path: Path) -> None:
    new = {"id": "a", "name": "b", "group": "c"}
    assert identity_of(tmp_path, new) == new
    keep_identity(tmp_path, new)
    assert identity_of(tmp_path, {"id": "x", "name": "y", "group": "z"}) == new


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_broken_record_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).parent.mkdir()
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"wandb/run\.json cannot be read"):
        identity_of(tmp_path, {"id": "x"})
