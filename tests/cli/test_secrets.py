"""A value of the environment reaches the part that needs it, and nothing that is written or printed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from realgen import masking
from realgen.cli.realgen_cli import RealGenCLI
from tests.cli.conftest import run
from tests.helpers.cli_toys import Model
from tests.helpers.forked import forked

SECRET = "correct-horse/battery"
Fit = Callable[..., int]
WANDB = "{wandb: {class_path: lightning.pytorch.loggers.WandbLogger, init_args: {project: p, offline: true}}}"


class Talkative(Model):
    """Keeps, prints, logs and raises the argument that it was given.

    Args:
        password: What it gets.
        fails: Whether it ends in an error that tells the password.
    """

    def __init__(self, password: str, fails: bool = False, **others: Any) -> None:
        super().__init__(**others)
        self.save_hyperparameters("password")
        self.password, self.fails = password, fails

    def on_train_start(self) -> None:
        print("signed in with", self.password)
        if self.fails:
            raise RuntimeError(f"the server refuses {self.password!r}")


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments that give the toy model a password of the environment."""
    monkeypatch.setenv("MY_SECRET", SECRET)
    monkeypatch.setattr(masking, "_values", {})
    reward = "{class_path: tests.helpers.cli_toys.Bright}"
    given = f"{{class_path: {__name__}.Talkative, init_args: {{reward: {reward}, password: '${{oc.env:MY_SECRET}}'}}}}"
    return [f"--model={given}", "--run_dir=mine", f"--loggers={WANDB}"]


def holding_the_secret(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.attack("secrets", "a part that prints, logs, saves and raises it")
@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_neither_files_nor_screen_hold_it(fails: bool, words: list[str], folder: Path) -> None:
    argv = ["--config=toy.yaml", *words, f"--model.fails={fails}"]
    # runs of other tests in this process may have told W&B of folders of their own
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    ended = forked(lambda: run(argv), folder, environment=environment | {"WANDB_MODE": "offline"})
    assert ended.returncode == fails, ended.stderr
    assert "signed in with ${oc.env:MY_SECRET}" in ended.stdout
    assert ("refuses '${oc.env:MY_SECRET}'" in ended.stderr) == fails
    assert SECRET not in ended.stdout + ended.stderr
    assert list((folder / "mine" / "wandb").rglob("*.wandb"))
    assert (folder / "mine" / ("error.log" if fails else "checkpoints/last.ckpt")).exists()
    assert holding_the_secret(folder / "mine") == []


@pytest.mark.attack("secrets", "in the config of a run")
def test_the_part_gets_it_and_the_config_does_not(words: list[str], parse: Callable[..., RealGenCLI]) -> None:
    cli = parse(*words)
    assert vars(cli.model)["password"] == SECRET
    config = yaml.safe_load(cli.config_text)
    assert config["model"]["init_args"]["password"] == "${oc.env:MY_SECRET}"
    assert SECRET not in cli.config_text


@pytest.mark.attack("secrets", "in a printed config")
@pytest.mark.parametrize("printing", ["--print_config", "--print_config=skip_default"])
def test_nor_does_a_printed_config(
    printing: str, words: list[str], fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        fit(*words, printing)
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["model"]["init_args"]["password"] == "${oc.env:MY_SECRET}"
    assert SECRET not in printed


@pytest.mark.attack("secrets", "in the message of a mistake")
@pytest.mark.parametrize("wrong", ["--trainer.max_epochs=${oc.env:MY_SECRET}", "--model.lr=${oc.env:MY_SECRET}x"])
def test_nor_does_the_message_of_a_mistake(
    wrong: str, words: list[str], fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(*words, wrong) == 1
    assert SECRET not in capsys.readouterr().err


def test_a_longer_run_from_the_run_s_own_config_behaves_as_from_the_recipe(fit: Fit, folder: Path) -> None:
    words = ["--trainer.check_val_every_n_epoch=${trainer.max_epochs}", "--model.optimizer.lr=${model.init_args.lr}"]
    assert fit("--run_dir=recipe", *words) == 0
    assert fit("--run_dir=own", *words) == 0
    assert fit("--run_dir=recipe", *words, "--ckpt_path=last", "--trainer.max_epochs=4") == 0
    assert fit("--config=own/config.yaml", "--run_dir=own", "--ckpt_path=last", "--trainer.max_epochs=4") == 0
    rows = [(folder / name / "csv" / "version_0" / "metrics.csv").read_text() for name in ("recipe", "own")]
    assert rows[0] == rows[1]
    configs = [yaml.safe_load((folder / name / "config.yaml").read_text()) for name in ("recipe", "own")]
    assert configs[0] == configs[1]
    assert configs[0]["trainer"]["check_val_every_n_epoch"] == "${trainer.max_epochs}"
