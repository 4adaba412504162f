"""What comes out of a config: the components it names, changed by overlays and arguments, in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Timer

from realgen.callbacks import LastCheckpoint
from realgen.callbacks.metrics_csv import MetricsCSV
from realgen.cli import ConfigError
from realgen.cli.realgen_cli import RealGenCLI
from realgen.strategies.checkpoint import WholeFileIO

Parse = Callable[..., RealGenCLI]
TOYS = "tests.helpers.cli_toys"


def learning_rate(cli: RealGenCLI) -> float:
    (group,) = cli.model.configure_optimizers().param_groups
    return group["lr"]


def test_the_config_becomes_objects(parse: Parse) -> None:
    cli = parse()
    assert cli.model.group_size == 6
    assert cli.model.reward.rewards["bright"].target == 0.2
    assert cli.model.reward.rewards["other"].checkpoint == "x"
    assert isinstance(cli.model.configure_optimizers(), torch.optim.SGD)
    assert cli.datamodule.path == "x"
    assert cli.trainer.max_epochs == 2


def test_checkpoints_are_written_beside_their_place(parse: Parse) -> None:
    assert type(parse().trainer.strategy.checkpoint_io) is WholeFileIO


def test_interpolated_values_follow_the_command_line(parse: Parse) -> None:
    """jsonargparse's plain omegaconf mode would keep the file's value."""
    assert learning_rate(parse()) == 0.5
    cli = parse("--model.lr=0.25")
    assert cli.model.lr == learning_rate(cli) == 0.25


def test_interpolations_may_name_other_files_and_defaults(parse: Parse, folder: Path) -> None:
    (folder / "over.yaml").write_text("model: {init_args: {lr: '${data.init_args.rows}'}}")
    assert learning_rate(parse("--config", "over.yaml")) == 4.0
    assert learning_rate(parse("--config=over.yaml", "--data.rows=8")) == 8.0


def test_numbers_are_read_by_the_type_of_their_argument(parse: Parse) -> None:
    cli = parse("--model.lr=1e-4", "--data.path=123", "--model.group_size", "8", "--model.metrics={}")
    assert (cli.model.lr, cli.datamodule.path, cli.model.group_size, cli.model.metrics) == (1e-4, "123", 8, {})


def test_an_overlay_changes_adds_and_drops_components(parse: Parse, folder: Path) -> None:
    """The stock CLI would replace the whole dict."""
    (folder / "over.yaml").write_text(
        "model: {init_args: {reward: {init_args: {rewards: {bright: {init_args: {target: 0.9}}, other: null, "
        f"new: {TOYS}.Bright}}}}}}}}}}\n"
        "callbacks: {last: null, timer: lightning.pytorch.callbacks.Timer}\n"
    )
    cli = parse("--config", "over.yaml")
    rewards = cli.model.reward.rewards
    assert list(rewards) == ["bright", "other", "new"]
    assert (rewards["bright"].target, rewards["bright"].mode) == (0.9, "mean")
    assert rewards["other"] is None
    assert rewards["new"].target == 0.5
    assert any(isinstance(callback, Timer) for callback in cli.trainer.callbacks)
    assert not any(isinstance(callback, LastCheckpoint) for callback in cli.trainer.callbacks)


def test_a_part_file_swaps_a_component(parse: Parse, folder: Path) -> None:
    (folder / "part.yaml").write_text(f"{{class_path: {TOYS}.Weighted, init_args: {{rewards: {{b: {TOYS}.Bright}}}}}}")
    cli = parse("--model.reward=part.yaml", "--model.reward.rewards.b.target=0.7")
    assert list(cli.model.reward.rewards) == ["b"]
    assert cli.model.reward.rewards["b"].target == 0.7
    assert cli.model.reward.weights is None  # those of the recipe are gone with its reward


def test_everything_follows_the_folder_of_the_run(parse: Parse, folder: Path) -> None:
    cli = parse("--run_dir=mine")
    assert cli.run.path == Path("mine")
    assert cli.trainer.default_root_dir == "mine"
    (checkpoint,) = cli.trainer.checkpoint_callbacks
    assert Path(checkpoint.dirpath) == folder / "mine" / "checkpoints"
    (csv,) = cli.trainer.loggers
    assert isinstance(csv, MetricsCSV)
    assert csv.path == Path("mine", "csv", "version_0", "metrics.csv")
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "toy.yaml"]


def test_a_checkpoint_callback_may_go_elsewhere(parse: Parse, folder: Path) -> None:
    cli = parse("--run_dir=mine", "--callbacks.last.dirpath=there")
    assert Path(cli.trainer.checkpoint_callback.dirpath) == folder / "there"


def test_a_logger_writes_into_the_folder_of_the_run(parse: Parse) -> None:
    logger = "--loggers.lightning={class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: .}}"
    assert parse("--run_dir=mine", logger).trainer.loggers[0].save_dir == "mine"


def test_logger_false_means_none(parse: Parse) -> None:
    assert parse("--trainer.logger=false").trainer.loggers == []


ADD_WANDB = "--loggers.wandb={class_path: lightning.pytorch.loggers.WandbLogger, init_args: {offline: true}}"


def test_wandb_is_told_run_and_folder(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb, csv = parse("--run_dir=runs/toy/monday", ADD_WANDB).trainer.loggers
    assert isinstance(csv, MetricsCSV)
    assert wandb.version.startswith("toy-monday-")
    init = wandb._wandb_init
    assert (init["name"], init["group"], init["job_type"], init["resume"]) == ("toy-monday", "toy", "train", "allow")
    assert init["tags"] == ["Model", "SGD", "Weighted"]
    assert wandb.save_dir == "runs/toy/monday"
    other, _ = parse("--run_dir=exp/toy/monday", ADD_WANDB).trainer.loggers
    assert other.version != wandb.version  # of another folder with the same name
    named, _ = parse("--run_dir=runs/toy/monday", ADD_WANDB, "--loggers.wandb.id=mine").trainer.loggers
    assert named.version == "mine"
    monkeypatch.setenv("WANDB_RUN_ID", "agent")
    swept, _ = parse("--run_dir=runs/toy/monday", ADD_WANDB).trainer.loggers
    assert swept.version is None


def test_what_is_asked_of_wandb_stays(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--loggers.wandb.group=seeds", "--loggers.wandb.job_type=try", "--loggers.wandb.tags=[a, b]"]
    init = parse("--run_dir=mine", ADD_WANDB, *given).trainer.loggers[0]._wandb_init
    assert (init["group"], init["job_type"], init["tags"]) == ("seeds", "try", ["a", "b"])
    monkeypatch.setenv("WANDB_RUN_GROUP", "of the environment")
    assert parse("--run_dir=mine", ADD_WANDB).trainer.loggers[0]._wandb_init["group"] is None  # wandb reads it


def test_wandb_s_run_keeps_its_identity_when_it_goes_on_from_its_own_config(parse: Parse, folder: Path) -> None:
    (folder / "mine" / "wandb").mkdir(parents=True)
    kept = {"id": "toy-mine-1", "name": "toy-mine", "group": "toy"}
    (folder / "mine" / "wandb" / "run.json").write_text(json.dumps(kept))
    config = ["--config={loggers: {}}", "--run_dir=mine", ADD_WANDB]
    wandb, _ = parse(*config).trainer.loggers
    assert {name: wandb._wandb_init[name] for name in kept} == kept


def test_the_seed_is_set(parse: Parse) -> None:
    parse("--seed_everything=3")
    first = torch.rand(2)
    parse("--seed_everything=3")
    assert torch.equal(first, torch.rand(2))
    parse("--seed_everything=4")
    assert not torch.equal(first, torch.rand(2))


def test_print_config_shows_everything_and_starts_nothing(
    parse: Parse, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--print_config", "--model.lr=0.25")
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.25
    assert shown["data"]["init_args"]["rows"] == 4
    with pytest.raises(SystemExit):
        parse("--print_config=skip_default")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert "baseline" not in shown
    assert shown["trainer"]["max_epochs"] == 2


def test_help_of_what_is_no_class(parse: Parse) -> None:
    with pytest.raises(ConfigError, match="nope"):
        parse("--model.help=nope")


def test_help_after_a_recipe_with_part_files(parse: Parse, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "timing.yaml").write_text("timer: {class_path: lightning.pytorch.callbacks.Timer}")
    (folder / "parts.yaml").write_text("callbacks: timing.yaml")
    with pytest.raises(SystemExit) as stop:
        parse("--config=parts.yaml", f"--model.help={TOYS}.Model")
    assert stop.value.code == 0
    assert "--model.group_size" in capsys.readouterr().out.replace("init_args.", "")


def test_help_of_a_class(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(f"--model.help={TOYS}.Model")
    assert stop.value.code == 0
    assert "--model.init_args.group_size" in capsys.readouterr().out.replace(
        "--model.group_size", "--model.init_args.group_size"
    )
