"""Recipes on the shipped models, stopped and taken up again, equal runs that were not, to the bit."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file

from realgen.fit import main
from tests.modules.test_resume import assert_same, state

ROOT = Path(__file__).resolve().parent.parent
TIMINGS = ("seconds/", "busy_seconds/", "images_per_second")
SHORT = [
    "--baseline=false",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.check_val_every_n_epoch=1",
    "--data.prompts_per_iteration=2",
    "--data.validation_batch_size=2",
    "--model.group_size=4",
    "--model.updates_per_epoch=2",
    "--model.metrics=null",
    "--loggers.wandb=null",
]

pytestmark = pytest.mark.slow


class KillInUpdate(Callback):
    """Ends this process without a word, between the two updates of an iteration.

    Args:
        iteration: Finished iterations before the one that is cut.
    """

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration
        self.updates = 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if pl_module.iteration == self.iteration:
            self.updates += 1
            if self.updates == 2:
                os.kill(os.getpid(), signal.SIGKILL)


def fit(run: Path, *words: str, epochs: int, resume: bool = False, recipe: str = "diffusion") -> None:
    """Run a recipe up to an epoch; each has two iterations (unless ``words`` differ) and a validation."""
    go_on = ["--ckpt_path", "last"] if resume else []
    config = f"--config=configs/{recipe}.yaml"
    assert main([config, *SHORT, f"--run_dir={run}", f"--trainer.max_epochs={epochs}", *words, *go_on]) == 0


def rows(run: Path) -> list[dict[str, str]]:
    """What a run logged, over all its starts, timings left out."""
    (path,) = run.rglob("metrics.csv")
    with path.open() as file:
        return [
            {name: value for name, value in row.items() if value and not name.startswith(TIMINGS)}
            for row in csv.DictReader(file)
        ]


def assert_equal_ends(run: Path, straight: Path) -> None:
    last = Path("checkpoints", "last.ckpt")
    assert_same(state(run / last), state(straight / last))
    exported = sorted(path.relative_to(straight) for path in (straight / "lora").rglob("*.safetensors"))
    assert exported
    for path in exported:
        assert_same(load_file(run / path), load_file(straight / path))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of four iterations in one go."""
    run = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        fit(run, epochs=2)
    return run


def test_the_straight_run_trains_and_logs(straight: Path) -> None:
    logged = rows(straight)
    assert [row.get("iteration") for row in logged] == ["1.0", "2.0", "2.0", "3.0", "4.0", "4.0"]
    assert len({row["grad_norm"] for row in logged if "grad_norm" in row}) == 4
    assert all("val/reward" in logged[number] for number in (2, 5))
    end = state(straight / "checkpoints" / "last.ckpt")
    assert end["optimizer_states"][0]["state"][0]["step"] == end["EMA"]["updates"] == 8


def test_two_and_two_iterations_equal_four(straight: Path, repository: Path, tmp_path: Path) -> None:
    fit(tmp_path / "run", epochs=1)
    fit(tmp_path / "run", epochs=2, resume=True)
    assert_equal_ends(tmp_path / "run", straight)
    assert rows(tmp_path / "run") == rows(straight)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("llm", ["--model.policy.max_tokens=32", "--model.updates_per_epoch=1"]),
        ("joint", ["--model.policy.rewriter.max_tokens=32", "--model.policy.images_per_rewrite=2"]),
    ],
)
def test_recipes_with_a_language_model_too(recipe: str, words: list[str], repository: Path, tmp_path: Path) -> None:
    words = [*words, "--trainer.limit_train_batches=1", "--model.validation_samples_per_prompt=1"]
    fit(tmp_path / "straight", *words, epochs=2, recipe=recipe)
    fit(tmp_path / "run", *words, epochs=1, recipe=recipe)
    fit(tmp_path / "run", *words, epochs=2, recipe=recipe, resume=True)
    assert_equal_ends(tmp_path / "run", tmp_path / "straight")
    assert rows(tmp_path / "run") == rows(tmp_path / "straight")


def test_a_run_killed_amid_an_update_goes_on_from_its_last_checkpoint(
    straight: Path, repository: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    kill = "{class_path: tests.test_resume_nano.KillInUpdate, init_args: {iteration: 3}}"
    words = [
        "-m",
        "realgen.fit",
        "--config=configs/diffusion.yaml",
        *SHORT,
        f"--run_dir={run}",
        "--trainer.max_epochs=2",
        f"--callbacks.kill={kill}",
    ]
    killed = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=500)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert state(run / "checkpoints" / "last.ckpt")["iteration"] == 2
    assert rows(run) == rows(straight)[:4]  # the third iteration too, which is done once more
    fit(run, epochs=2, resume=True)
    assert_equal_ends(run, straight)
    assert rows(run) == rows(straight)
