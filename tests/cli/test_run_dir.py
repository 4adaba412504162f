"""Where runs live; every case of one process, several processes, and going on."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from realgen.cli import ConfigError
from realgen.cli.realgen_cli import RealGenCLI
from realgen.cli.run_dir import Run, check_processes, find_run, resume_command

NOW = datetime(2026, 1, 2, 3, 4, 5)
NAME = "20260102-030405"
LAST = Path("checkpoints", "last.ckpt")


def find(tmp_path: Path, environment: dict[str, str] | None = None, **given: Any) -> Run:
    defaults = {"recipe": "toy", "run_dir": None, "output_dir": str(tmp_path), "ckpt_path": None}
    return find_run(**{**defaults, **given}, environment=environment or {}, now=NOW)


def with_checkpoint(folder: Path, *, time: int = 0) -> Path:
    (folder / LAST).parent.mkdir(parents=True)
    (folder / LAST).touch()
    os.utime(folder / LAST, (time, time))
    return folder


def test_a_new_run_is_named_by_recipe_and_time_and_nothing_is_made(tmp_path: Path) -> None:
    run = find(tmp_path)
    assert run == Run(tmp_path / "toy" / NAME, "toy", None, chosen=NAME)
    assert run.name == f"toy-{NAME}"
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path) -> None:
    (tmp_path / "toy" / NAME).mkdir(parents=True)
    assert find(tmp_path).path.name == f"{NAME}_2"
    (tmp_path / "toy" / f"{NAME}_2").mkdir()
    assert find(tmp_path).path.name == f"{NAME}_3"


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    """All have chosen before the first one makes its folder, and then they race for the names."""
    chosen = [find(tmp_path) for _ in range(16)]
    assert {run.path for run in chosen} == {tmp_path / "toy" / NAME}
    with ThreadPoolExecutor(len(chosen)) as pool:
        reserved = list(pool.map(Run.reserve, chosen))
    names = {NAME, *(f"{NAME}_{number}" for number in range(2, 17))}
    assert {run.path.name for run in reserved} == names == {path.name for path in (tmp_path / "toy").iterdir()}
    assert all(run.path.is_dir() and run.name == f"toy-{run.path.name}" for run in reserved)


def test_a_run_that_does_not_begin_gives_its_folder_back(tmp_path: Path) -> None:
    first, second = find(tmp_path / "new"), find(tmp_path / "new")
    first, second = first.reserve(), second.reserve()
    (first.path / "notes.txt").touch()
    first.cleanup()
    assert [path.name for path in (tmp_path / "new" / "toy").iterdir()] == [f"{NAME}_2"]
    (tmp_path / "new" / "toy" / NAME).mkdir()  # of a third one
    second.cleanup()
    assert [path.name for path in (tmp_path / "new" / "toy").iterdir()] == [NAME]
    alone = find(tmp_path / "other").reserve()
    with pytest.raises(KeyboardInterrupt), alone.cleanup_on_error():
        raise KeyboardInterrupt
    assert not (tmp_path / "other").exists()
    kept = find(tmp_path / "other").reserve()
    with kept.cleanup_on_error():
        pass
    assert kept.path.exists()


def test_a_given_folder_is_taken_and_removed_only_if_it_was_made(tmp_path: Path) -> None:
    run = find(tmp_path, run_dir=str(tmp_path / "out" / "x"))
    assert run.path == tmp_path / "out" / "x"
    assert not run.path.exists()
    run.reserve().cleanup()
    assert list(tmp_path.iterdir()) == []
    (run.path / "mine").mkdir(parents=True)
    run.reserve().cleanup()
    assert [path.name for path in run.path.iterdir()] == ["mine"]


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    run = find(tmp_path, run_dir=str(tmp_path / "x"))
    (run.path / "checkpoints").mkdir(parents=True)
    (run.path / "checkpoints" / ".last.ckpt.host.17.part").write_bytes(b"half of it")
    run.reserve().release()
    assert list((run.path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("mark", ["config.yaml", ".lock"])
def test_what_belongs_to_a_run_below_is_left_alone(tmp_path: Path, mark: str) -> None:
    run, below = find(tmp_path, run_dir=str(tmp_path / "x")), tmp_path / "x" / "group" / "y"
    for folder in (run.path, below):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / ".last.ckpt.host.17.part").mkdir()
        (folder / ".lora.host.17.part").touch()
    (below / mark).touch()
    run.reserve().release()
    assert list((run.path / "checkpoints").iterdir()) == []
    assert sorted(path.name for path in run.path.iterdir()) == ["checkpoints", "group"]
    assert (below / ".lora.host.17.part").exists()
    assert (below / "checkpoints" / ".last.ckpt.host.17.part").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"run_dir: cannot make {tmp_path}/file/x: Not a directory"):
        find(tmp_path, run_dir=str(tmp_path / "file" / "x")).reserve()


def test_several_processes_all_come_to_the_same_folder(tmp_path: Path) -> None:
    environments = [{"WORLD_SIZE": "2", "RANK": rank, "TORCHELASTIC_RUN_ID": "night"} for rank in "01"]
    assert {find(tmp_path, environment).reserve().path.name for environment in environments} == {"torchrun-night"}


@pytest.mark.parametrize("trace", ["config.yaml", "checkpoints/last.ckpt"])
def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path, trace: str) -> None:
    (tmp_path / "x" / trace).parent.mkdir(parents=True)
    (tmp_path / "x" / trace).touch()
    with pytest.raises(ConfigError, match=r"run_dir: .*holds a run already.*--run_dir=.*/x --ckpt_path=last"):
        find(tmp_path, run_dir=str(tmp_path / "x"))


def test_last_is_the_run_whose_checkpoint_is_newest(tmp_path: Path) -> None:
    with_checkpoint(tmp_path / "toy" / "a", time=10)
    newest = with_checkpoint(tmp_path / "toy" / "b", time=30)
    with_checkpoint(tmp_path / "toy" / "c", time=20)
    with_checkpoint(tmp_path / "other" / "d", time=40)
    (tmp_path / "toy" / "z").mkdir()
    run = find(tmp_path, ckpt_path="last")
    assert run == Run(newest, "toy", newest / LAST)
    assert run.name == "toy-b"


def test_last_of_a_given_folder(tmp_path: Path) -> None:
    mine = with_checkpoint(tmp_path / "toy" / "a", time=10)
    with_checkpoint(tmp_path / "toy" / "b", time=30)
    assert find(tmp_path, ckpt_path="last", run_dir=str(mine)).ckpt_path == mine / LAST


def test_last_without_a_checkpoint_names_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"ckpt_path: found no {LAST} in any run of {tmp_path}/toy"):
        find(tmp_path, ckpt_path="last")


@pytest.mark.parametrize("trace", [None, "config.yaml", "checkpoints/.last.ckpt.host.17.part", "csv/version_0/x"])
def test_last_of_a_given_folder_starts_where_there_is_none_yet(tmp_path: Path, trace: str | None) -> None:
    if trace is not None:
        (tmp_path / "x" / trace).parent.mkdir(parents=True)
        (tmp_path / "x" / trace).touch()
    assert find(tmp_path, ckpt_path="last", run_dir=str(tmp_path / "x")) == Run(tmp_path / "x", "toy", None)


def test_last_is_looked_for_where_the_run_keeps_it(tmp_path: Path) -> None:
    kept = with_checkpoint(tmp_path / "scratch") / LAST
    given = {"ckpt_path": "last", "run_dir": str(tmp_path / "x"), "checkpoints": str(kept.parent)}
    assert find(tmp_path, **given) == Run(tmp_path / "x", "toy", kept)


def test_a_run_killed_between_two_names_goes_on_from_the_last_but_one(tmp_path: Path) -> None:
    run = with_checkpoint(tmp_path / "toy" / "a")
    (run / LAST).rename(run / LAST.parent / "previous.ckpt")
    for run_dir in (None, str(run)):
        assert find(tmp_path, ckpt_path="last", run_dir=run_dir).ckpt_path == run / LAST.parent / "previous.ckpt"


def test_a_checkpoint_goes_on_in_its_own_run(tmp_path: Path) -> None:
    path = with_checkpoint(tmp_path / "toy" / "a") / LAST
    assert find(tmp_path, ckpt_path=str(path)) == Run(tmp_path / "toy" / "a", "toy", path)


def test_a_checkpoint_may_go_on_elsewhere(tmp_path: Path) -> None:
    path = with_checkpoint(tmp_path / "toy" / "a") / LAST
    assert find(tmp_path, ckpt_path=str(path), run_dir=str(tmp_path / "fork")).path == tmp_path / "fork"
    loose = tmp_path / "loose.ckpt"
    loose.touch()
    assert find(tmp_path, ckpt_path=str(loose)).path == tmp_path / "toy" / NAME


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ckpt_path: there is no nope.ckpt"):
        find(tmp_path, ckpt_path="nope.ckpt")


def test_processes_that_lightning_starts_are_told(tmp_path: Path) -> None:
    told = {"REALGEN_RUN_DIR": str(tmp_path / "x"), "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").touch()
    assert find(tmp_path, told).path == tmp_path / "x"
    with_checkpoint(tmp_path / "x")
    assert find(tmp_path, told, ckpt_path="last").ckpt_path == tmp_path / "x" / LAST


def test_a_left_over_variable_does_not_count(tmp_path: Path) -> None:
    assert find(tmp_path, {"REALGEN_RUN_DIR": "elsewhere"}).path == tmp_path / "toy" / NAME


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "night"}, "torchrun-night"),
        ({"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "7"}, "slurm-7"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}, "slurm-7"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, f"{NAME}-7"),
        ({"WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}, NAME),
        ({"WANDB_RUN_ID": "x1y2", "WANDB_SWEEP_ID": "s"}, f"{NAME}-x1y2"),
        ({"WANDB_RUN_ID": "x1y2"}, NAME),  # of no agent
        ({"WANDB_RUN_ID": "x1y2", "WANDB_SWEEP_ID": "s", "SLURM_JOB_ID": "7"}, f"{NAME}-7-x1y2"),
        ({"WANDB_RUN_ID": "x1y2", "WANDB_SWEEP_ID": "s", "WORLD_SIZE": "2", "SLURM_JOB_ID": "7"}, "wandb-x1y2"),
    ],
)
def test_processes_that_others_start_agree_by_the_job(tmp_path: Path, environment: dict[str, str], name: str) -> None:
    assert find(tmp_path, environment).path == tmp_path / "toy" / name


def test_processes_without_a_common_id_are_refused(tmp_path: Path) -> None:
    environment = {"WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    with pytest.raises(ConfigError, match="run_dir: several processes were started"):
        find(tmp_path, environment)
    assert find(tmp_path, environment, run_dir=str(tmp_path / "x")).path == tmp_path / "x"


def test_only_the_first_process_looks_whether_the_folder_is_taken(tmp_path: Path) -> None:
    """The others may come after the first one has begun to write."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").touch()
    environment = {"WORLD_SIZE": "2", "RANK": "1"}
    assert find(tmp_path, environment, run_dir=str(tmp_path / "x")).path == tmp_path / "x"
    with pytest.raises(ConfigError, match="holds a run already"):
        find(tmp_path, {**environment, "RANK": "0"}, run_dir=str(tmp_path / "x"))


def test_the_command_to_go_on_replaces_what_placed_the_run() -> None:
    argv = ["--config", "a b.yaml", "--run_dir", "old", "--ckpt_path=last", "--model.lr=1"]
    expected = "python -m realgen.fit --config 'a b.yaml' --model.lr=1 --run_dir=runs/x --ckpt_path=last"
    assert resume_command(Run(Path("runs/x"), "a"), argv) == expected


TORCHRUN = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}
SLURM = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM], ids=["torchrun", "slurm"])
@pytest.mark.parametrize(("devices", "num_nodes"), [(1, 1), (4, 2), (2, 1)])
def test_another_number_of_processes_is_refused_with_the_flags(
    environment: dict[str, str], devices: int, num_nodes: int
) -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)^trainer.devices: 4 processes.*--trainer.devices=2 --trainer.num_nodes=2"
    ):
        check_processes(environment, devices=devices, num_nodes=num_nodes)


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
@pytest.mark.parametrize("devices", [1, 2])
def test_processes_that_do_not_know_their_rank_are_refused(variable: str, devices: int) -> None:
    """Each would be a first process, and train a copy."""
    with pytest.raises(ConfigError, match=rf"mpirun started 2 processes \({variable}\)(?s:.)*torchrun"):
        check_processes({variable: "2"}, devices=devices, num_nodes=1)
    check_processes({variable: "2", "RANK": "0", "WORLD_SIZE": "2"}, devices=2, num_nodes=1)


@pytest.mark.parametrize(
    ("environment", "devices", "num_nodes"),
    [
        (TORCHRUN, 2, 2),
        (SLURM, 2, 2),
        (SLURM | {"SLURM_JOB_NAME": "bash"}, 1, 1),  # Lightning starts them
        ({}, 8, 1),
        ({"WORLD_SIZE": "1"}, 8, 1),  # of a container; nobody has started processes
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, 1, 1),  # not started by srun
    ],
)
def test_the_right_number_of_processes_passes(environment: dict[str, str], devices: int, num_nodes: int) -> None:
    check_processes(environment, devices=devices, num_nodes=num_nodes)


@pytest.mark.parametrize("devices", ["1", "auto", "[0]", "0,"])
def test_copies_are_refused_before_anything_is_made(
    parse: Callable[..., RealGenCLI], folder: Path, monkeypatch: pytest.MonkeyPatch, devices: str
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"trainer\.devices: 2 processes"):
        parse(f"--trainer.devices={devices}", "--model.reward.rewards.other.checkpoint=gone")
    assert not (folder / "runs").exists()
