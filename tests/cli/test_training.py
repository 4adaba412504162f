"""Runs from start to end, to an error, to a signal, and on from there; with a model of one weight."""

from __future__ import annotations

import csv
import itertools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from tests.cli.conftest import run
from tests.helpers import cli_toys
from tests.helpers.cli_toys import Model

ROOT = Path(__file__).resolve().parents[2]
Fit = Callable[..., int]


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """Lightning ignores Ctrl-C from the first one on."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "csv" / "version_0" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def weight(run: Path) -> float:
    return float(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["weight"])


def test_a_run_leaves_config_checkpoint_and_csv(fit: Fit, folder: Path) -> None:
    assert fit("--model.lr=0.25") == 0
    (run,) = (folder / "runs" / "toy").iterdir()
    assert {path.name for path in run.iterdir()} == {"checkpoints", "config.yaml", "config_sources.txt", "csv"}
    text = (run / "config.yaml").read_text()
    assert text.splitlines()[0].endswith(": python -m realgen.fit --config toy.yaml --model.lr=0.25")
    assert text.splitlines()[1] == f'# started in "{folder}"'
    config = yaml.safe_load(text)
    model = config["model"]["init_args"]
    assert (model["lr"], model["optimizer"]["init_args"]["lr"]) == (0.25, "${model.init_args.lr}")
    assert (config["run_dir"], config["ckpt_path"]) == (None, None)
    steps = [float(row["weight"]) for row in rows(run) if row.get("weight")]
    assert steps == [-0.25 * step for step in range(8)]  # 2 epochs of 4 batches
    assert weight(run) == -2.0
    assert "REALGEN_RUN_DIR" not in os.environ


def test_the_saved_config_starts_the_same_run_elsewhere(fit: Fit, folder: Path) -> None:
    assert fit("--run_dir=first", "--model.lr=0.25") == 0
    assert run(["--config=first/config.yaml"]) == 0
    (second,) = (folder / "runs" / "config").iterdir()
    assert weight(second) == weight(folder / "first")


@pytest.mark.parametrize(("baseline", "validations"), [("true", 3), ("false", 2)])
def test_the_baseline_is_validated_first(fit: Fit, folder: Path, baseline: str, validations: int) -> None:
    assert fit("--run_dir=mine", f"--baseline={baseline}") == 0
    values = [float(row["val/weight"]) for row in rows(folder / "mine") if row.get("val/weight")]
    assert values == [0.0, -2.0, -4.0][-validations:]


def test_two_epochs_and_two_more_equal_four(fit: Fit, folder: Path) -> None:
    assert fit("--run_dir=straight", "--trainer.max_epochs=4") == 0
    assert fit() == 0
    assert fit("--ckpt_path=last", "--trainer.max_epochs=4") == 0
    (run,) = (folder / "runs" / "toy").iterdir()
    assert weight(run) == weight(folder / "straight") == -8.0
    assert rows(run) == rows(folder / "straight")  # no second baseline, one file


def test_a_given_checkpoint_goes_on_in_its_run(fit: Fit, folder: Path) -> None:
    assert fit("--run_dir=mine") == 0
    assert fit("--ckpt_path=mine/checkpoints/last.ckpt", "--trainer.max_epochs=3") == 0
    assert weight(folder / "mine") == -6.0


def test_an_error_in_training_is_told_in_two_lines(fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--run_dir=mine", "--model.fail_at=5") == 1
    lines = capsys.readouterr().err.splitlines()[-2:]
    assert lines == ["error: RuntimeError: the weight walked away", "       traceback: mine/error.log"]
    log = (folder / "mine" / "error.log").read_text()
    assert log.startswith("Traceback")
    assert "will not come back" in log


def test_another_error_before_the_run_begins_leaves_its_traceback(
    fit: Fit, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def setup(self: cli_toys.Data, stage: str) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(cli_toys.Data, "setup", setup)
    assert fit("--run_dir=mine") == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "error: OSError: the disk is gone",
        "       traceback: mine/error.log",
    ]
    assert "in setup" in (folder / "mine" / "error.log").read_text()


def test_a_folder_that_is_deleted_meanwhile_ends_the_run(
    fit: Fit, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = cli_toys.Model.training_step
    steps = itertools.count()

    def and_delete(self: cli_toys.Model, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        if next(steps) == 5:
            shutil.rmtree("mine")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(cli_toys.Model, "training_step", and_delete)
        assert fit("--run_dir=mine", "--ckpt_path=last") == 1
    lines = capsys.readouterr().err.splitlines()
    assert any("No such file or directory; the run's folder was deleted" in line and "mine" in line for line in lines)
    assert len(lines) <= 6
    assert fit("--run_dir=mine", "--ckpt_path=last") == 0  # from the beginning
    assert fit("--run_dir=straight") == 0
    assert (folder / "mine" / "csv" / "version_0" / "metrics.csv").read_text() == (
        folder / "straight" / "csv" / "version_0" / "metrics.csv"
    ).read_text()


def test_with_the_variable_set_an_error_in_training_is_raised(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALGEN_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="walked away"):
        fit("--model.fail_at=0")


def test_a_job_with_a_fixed_folder_can_be_requeued_for_ever(
    fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--run_dir=mine", "--ckpt_path=last")
    assert fit(*words, "--model.fail_at=1") == 1  # before the first checkpoint
    assert capsys.readouterr().out.splitlines()[0] == "starts in mine, which holds no checkpoint yet"
    assert (folder / "mine" / "config.yaml").exists()
    assert fit(*words, "--model.fail_at=5") == 1
    assert capsys.readouterr().out.splitlines()[0] == "starts in mine, which holds no checkpoint yet"
    assert weight(folder / "mine") == -2.0
    assert fit(*words) == 0
    line = "goes on in mine from iteration 4 (mine/checkpoints/last.ckpt)"
    assert capsys.readouterr().out.splitlines()[0] == line
    assert weight(folder / "mine") == -4.0


def test_runs_stopped_in_one_validation_after_the_other_do_no_iteration_twice(fit: Fit, folder: Path) -> None:
    """``previous.ckpt`` is the checkpoint that was written before the last validation."""
    assert fit("--run_dir=mine") == 0
    for epochs in (3, 4, 5):
        words = ["--ckpt_path=mine/checkpoints/previous.ckpt", f"--trainer.max_epochs={epochs}"]
        assert fit(*words) == 0
        assert weight(folder / "mine") == -2.0 * epochs
    found = [float(row["val/weight"]) for row in rows(folder / "mine") if row.get("val/weight")]
    assert found == [0.0, -2.0, -4.0, -6.0, -8.0, -10.0]


def test_without_a_checkpoint_that_was_asked_for_a_folder_in_use_is_refused(fit: Fit, folder: Path) -> None:
    assert fit("--run_dir=mine", "--model.fail_at=1") == 1
    assert fit("--run_dir=mine") == 1


@pytest.mark.parametrize("folder_of_checkpoints", [None, "elsewhere"])
def test_a_damaged_checkpoint_is_named_with_the_older_one_that_works(
    fit: Fit, folder: Path, folder_of_checkpoints: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run_dir=mine"]
    if folder_of_checkpoints is not None:
        words.append(f"--callbacks.last.dirpath={folder_of_checkpoints}")
    assert fit(*words) == 0
    kept = Path(folder_of_checkpoints or "mine/checkpoints")
    data = bytearray((kept / "last.ckpt").read_bytes())
    data[len(data) // 2] ^= 1
    (kept / "last.ckpt").write_bytes(data)
    capsys.readouterr()
    assert fit(*words, "--ckpt_path=last", "--trainer.max_epochs=3") == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        f"error: ckpt_path: {kept}/last.ckpt is damaged: its SHA-256 is not the one in {kept}/last.ckpt.sha256."
    )
    command = second.removeprefix("       Go on: python -m realgen.fit ")
    assert command.endswith(f"--run_dir=mine --ckpt_path={kept}/previous.ckpt")
    assert run(shlex.split(command)) == 0
    assert float(torch.load(kept / "last.ckpt", weights_only=True)["state_dict"]["weight"]) == -6.0


def test_a_damaged_checkpoint_leaves_everything_as_it_was(
    fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine" / "checkpoints").mkdir(parents=True)
    (folder / "mine" / "checkpoints" / "last.ckpt").write_bytes(b"half")
    assert fit("--run_dir=mine", "--ckpt_path=last") == 1
    assert capsys.readouterr().err.splitlines()[1] == "       There is no other one beside it."
    assert {str(path.relative_to(folder / "mine")) for path in (folder / "mine").rglob("*")} == {
        "checkpoints",
        "checkpoints/last.ckpt",
    }


def test_a_second_process_in_one_folder_is_refused(fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from pathlib import Path; from realgen.run_lock import RunLock; lock = RunLock(Path('mine'))"
    (folder / "mine").mkdir()
    words = [sys.executable, "-c", f"{code}; print(1, flush=True); sys.stdin.readline()"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        for more in ((), ("--ckpt_path=last",)):
            assert fit("--run_dir=mine", *more) == 1
            error = capsys.readouterr().err
            assert error.startswith(
                f"error: run_dir: process {first.pid} on {socket.gethostname()} works in mine since"
            )
            assert len(error.splitlines()) == 1
        assert [path.name for path in (folder / "mine").iterdir()] == [".lock"]
        first.kill()
    assert fit("--run_dir=mine") == 0


def interrupting(number: int, at_step: int, hook: Callable[..., Any]) -> Callable[..., Any]:
    def step(self: Model, *args: Any) -> Any:
        if self.global_step == at_step:
            os.kill(os.getpid(), number)
        return hook(self, *args)

    return step


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_code_and_the_command_to_go_on(
    fit: Fit,
    folder: Path,
    number: int,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    # a shell starts its background jobs with SIGINT ignored, and these tests may be one
    request.addfinalizer(
        partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
    )
    with monkeypatch.context() as patch:
        patch.setattr(cli_toys.Model, "training_step", interrupting(number, 5, Model.training_step))
        assert fit("--run_dir=mine", "--callbacks.preemption=realgen.callbacks.Preemption") == code
    stopped, go_on = capsys.readouterr().err.splitlines()[-2:]
    assert stopped == "stopped; the last checkpoint is mine/checkpoints/last.ckpt"
    expected = "go on: python -m realgen.fit --config toy.yaml --callbacks.preemption=realgen.callbacks.Preemption "
    assert go_on == f"{expected}--run_dir=mine --ckpt_path=last"
    assert weight(folder / "mine") == (-3.0 if number == signal.SIGTERM else -2.0)  # SIGTERM saves once more
    assert fit("--run_dir=mine", "--ckpt_path=last") == 0
    assert weight(folder / "mine") == -4.0


def test_a_signal_during_the_baseline_is_not_forgotten(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_toys.Model, "validation_step", interrupting(signal.SIGTERM, 0, Model.validation_step))
    assert fit("--run_dir=mine") == 143
    assert capsys.readouterr().err.splitlines()[-1] == "stopped before the first checkpoint of mine"


RUN = """
import sys
from realgen.cli.arguments import take_arguments
from tests.cli.conftest import run
sys.exit(run(take_arguments(None)))
"""


def run_apart(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    (folder / "run.py").write_text(RUN)  # a file, because Lightning's launcher starts it again
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    environment.pop("WANDB_SERVICE", None)  # of an earlier test's run, which would write the record when it pleases
    words = [sys.executable, "run.py", *argv]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=550, check=False)


@pytest.mark.slow
def test_as_a_wandb_agent_starts_it(folder: Path) -> None:
    """Arguments as wandb's own code prints them, without hyphens, with None, and a component swapped by name."""
    chosen = {
        "model.lr": 1e-05,
        "model.metrics": None,
        "baseline": False,
        "model.reward.rewards.bright": "tests.helpers.cli_toys.Bright",
    }
    printed = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    loggers = "{wandb: {class_path: lightning.pytorch.loggers.WandbLogger, init_args: {project: p, offline: true}}}"
    ended = run_apart(
        folder, "--config", "toy.yaml", "--run_dir=mine", f"--loggers={loggers}", *printed["args_no_hyphens"]
    )
    assert ended.returncode == 0, ended.stderr
    config = yaml.safe_load((folder / "mine" / "config.yaml").read_text())
    model = config["model"]["init_args"]
    assert (model["lr"], model["metrics"], config["baseline"]) == (1e-05, None, False)
    assert model["reward"]["init_args"]["rewards"]["bright"]["init_args"]["target"] == 0.5
    (record,) = (folder / "mine" / "wandb").glob("offline-run-*/run-*.wandb")
    assert record.name.startswith("run-toy-mine-")
    assert b"group_size" in record.read_bytes()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_write_into_one_folder(folder: Path) -> None:
    ended = run_apart(folder, "--config", "toy.yaml", "--trainer.devices=2", "--trainer.strategy=ddp")
    assert ended.returncode == 0, ended.stderr
    (run,) = (folder / "runs" / "toy").iterdir()
    assert {path.name for path in run.iterdir()} == {"checkpoints", "config.yaml", "config_sources.txt", "csv"}
    assert weight(run) == -2.0  # 2 epochs of 2 batches on each rank
