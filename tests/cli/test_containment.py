"""Callbacks and loggers that fail cost no run, and every error names its part and how to go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from tests.helpers import cli_toys

Fit = Callable[..., int]
HERE = "tests.cli.test_containment"


class Drawing(Callback):
    """A callback of a user whose library is missing, whatever it is asked for."""

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        raise ModuleNotFoundError("No module named 'matplotlib'")

    on_validation_end = on_train_end = on_fit_end = on_exception = teardown = on_train_batch_end

    def state_dict(self) -> dict[str, Any]:
        raise RuntimeError("nothing to keep")


class Unready(Callback):
    def on_train_start(self, *args: Any) -> None:
        raise RuntimeError("not set up")


class Away(Logger):
    """A logger whose service is away from the start, or later."""

    def __init__(self, late: bool = True) -> None:
        super().__init__()
        self.late = late

    name = version = "away"

    @property
    def experiment(self) -> Any:
        if not self.late:
            raise ConnectionError("no route to host")
        return self

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")

    log_hyperparams = save = finalize = log_metrics


def weight(run: Path) -> float:
    return float(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["weight"])


def test_a_callback_that_fails_is_named_once_and_costs_nothing(
    fit: Fit, folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--run_dir=straight") == 0
    assert fit("--run_dir=mine", f"--callbacks.mine={HERE}.Drawing") == 0
    assert weight(folder / "mine") == weight(folder / "straight")
    told = [message for message in caplog.messages if "callbacks.mine failed" in message]
    assert len(told) == len(set(told)) == 6
    assert (
        "its on_train_batch_end: ModuleNotFoundError: No module named 'matplotlib' (test_containment.py, line"
        in told[2]
    )
    assert "callbacks.mine: on_train_batch_end failed 8 times" in capsys.readouterr().err


def test_the_error_of_a_run_is_not_hidden_by_one_of_a_callback(
    fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--run_dir=mine", "--model.fail_at=5", f"--callbacks.mine={HERE}.Drawing") == 1
    assert "error: RuntimeError: the weight walked away\n" in capsys.readouterr().err


def test_a_callback_that_cannot_begin_ends_the_run_by_its_key(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--run_dir=mine", f"--callbacks.mine={HERE}.Unready") == 1
    assert "error: callbacks.mine: RuntimeError: not set up\n" in capsys.readouterr().err


@pytest.mark.parametrize("late", ["true", "false"])
def test_a_logger_whose_service_is_away_costs_nothing(
    fit: Fit, folder: Path, late: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert fit("--run_dir=mine", f"--loggers.mine={HERE}.Away", f"--loggers.mine.late={late}") == 0
    assert weight(folder / "mine") == -4.0
    assert (folder / "mine" / "csv" / "version_0" / "metrics.csv").exists()
    told = [message for message in caplog.messages if message.startswith("loggers.mine failed")]
    assert all("ConnectionError: no route to host" in message for message in told)
    assert len(told) == (4 if late == "true" else 1)


def test_a_traceback_that_cannot_be_written_is_no_second_error(
    fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine" / "error.log").mkdir(parents=True)
    assert fit("--run_dir=mine", "--model.fail_at=5") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2] == "error: RuntimeError: the weight walked away"
    assert "mine/error.log" in lines[-1]
    assert "REALGEN_TRACEBACK=1" in lines[-1]


def test_every_error_says_how_to_go_on(fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--run_dir=mine", "--model.fail_at=5") == 1
    lines = capsys.readouterr().err.splitlines()[-4:]
    assert lines[:2] == [
        "stopped; the last checkpoint is mine/checkpoints/last.ckpt",
        "go on: python -m realgen.fit --config toy.yaml --model.fail_at=5 --run_dir=mine --ckpt_path=last",
    ]
    assert fit("--run_dir=mine", "--ckpt_path=last") == 0
    assert weight(folder / "mine") == -4.0


def test_a_run_folder_that_is_deleted_is_told_in_lines(
    fit: Fit, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = cli_toys.Model.training_step

    def step(self: cli_toys.Model, *args: Any) -> Any:
        if self.global_step == 2:
            shutil.rmtree(folder / "mine")
            (folder / "mine").write_text("a file where the folder was")
        return plain(self, *args)

    monkeypatch.setattr(cli_toys.Model, "training_step", step)
    assert fit("--run_dir=mine") == 1
    err = capsys.readouterr().err
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "the run's folder was deleted while it was at work: 'mine'" in error
    assert "Traceback" not in err


def test_a_file_where_the_run_folder_should_be_is_told_in_a_line(
    fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "taken").write_text("")
    for arguments in (["--run_dir=taken/mine"], ["--run_dir=taken"], ["--output_dir=taken"]):
        assert fit(*arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if line.startswith("error: ") and "taken" in line], lines
        assert "Traceback" not in "".join(lines)
