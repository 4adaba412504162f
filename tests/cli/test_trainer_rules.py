"""Settings of the trainer that would do nothing, or fail late."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import LightningDataModule

from realgen.cli.realgen_cli import ParsedConfig
from realgen.cli.trainer_rules import trainer_problems
from realgen.fit import main
from realgen.modules.base import TrainableModule

ROOT = Path(__file__).resolve().parents[2]
OWN = "GRPOModule takes its own optimizer steps"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The default recipe as it is complete."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return ParsedConfig(
            TrainableModule, LightningDataModule, argv=["--config=configs/diffusion.yaml"]
        ).config.as_dict()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seed_everything=-1", "seed_everything: expected a number from 0 to 4294967295, or true for a random one"),
        ("seed_everything=4294967296", "seed_everything: expected a number from 0 to 4294967295"),
        ("trainer.gradient_clip_val=1.0", f"trainer.gradient_clip_val: {OWN}. Use model.max_grad_norm"),
        ("trainer.accumulate_grad_batches=2", f"trainer.accumulate_grad_batches: {OWN}. Use model.microbatch_size"),
        ("trainer.max_epochs=0", "trainer.max_epochs: expected at least 1, or -1 for no limit, got 0."),
        ("trainer.max_epochs=-2", "trainer.max_epochs: expected at least 1, or -1 for no limit, got -2."),
        ("trainer.min_epochs=11", "trainer.min_epochs: expected at most trainer.max_epochs=5, got 11."),
        ("trainer={min_steps: 7, max_steps: 6}", "trainer.min_steps: expected at most trainer.max_steps=6, got 7."),
        ("trainer.max_steps=0", "trainer.max_steps: expected at least 1, or -1 for no limit, got 0."),
        ("trainer.limit_train_batches=0", "trainer.limit_train_batches: expected the iterations of an epoch"),
        ("trainer.limit_train_batches=0.1", "trainer.limit_train_batches: expected the iterations of an epoch"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval: expected iterations between two validations"),
        ("trainer.val_check_interval=2.5", "trainer.val_check_interval: expected iterations between two"),
        ("trainer.val_check_interval=2000000", "trainer.val_check_interval: expected iterations between two"),
        ("trainer.limit_train_batches=-3", "trainer.limit_train_batches: expected the iterations of an epoch"),
        *(
            (f"trainer.devices={each}", "trainer.devices: expected a number, at least 1, auto, or a list such as")
            for each in ("", "0", "-2", "abc", "[]", ",")
        ),
        ("trainer.default_root_dir=x", "trainer.default_root_dir: a run writes into its own folder. Use run_dir or"),
        ("trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch: expected at least 1, got 0."),
        ("trainer.num_nodes=0", "trainer.num_nodes: expected at least 1, got 0."),
        ("trainer.strategy=dpp", "trainer.strategy: there is no strategy 'dpp'. Did you mean ddp?"),
        ("trainer.accelerator=gpuu", "trainer.accelerator: there is no accelerator 'gpuu'. Did you mean gpu?"),
        ("trainer.profiler=simpel", "trainer.profiler: there is no profiler 'simpel'. Did you mean simple?"),
    ],
)
def test_refused_at_once(argument: str, message: str, config: dict[str, Any]) -> None:
    changed, (key, _, value) = copy.deepcopy(config), argument.partition("=")
    group, _, name = key.rpartition(".")
    read = value if value in ("", ",") else yaml.safe_load(value)
    if key == "trainer":
        changed["trainer"].update(read)
    else:
        (changed[group] if group else changed)[name] = read
    assert [problem[: len(message)] for problem in trainer_problems(changed)] == [message]


def test_a_recipe_has_no_problem(config: dict[str, Any]) -> None:
    assert list(trainer_problems(config)) == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "model.objective=5",
            "model.objective: expected an Objective (class_path and init_args, or a part file), got '5'",
        ),
        ("trainer.precision=bf16-mixd", "trainer.precision: expected "),
        ("trainer.devices=", "trainer.devices: expected a number, at least 1, auto, or a list such as"),
        ("trainer.min_epochs=11", "trainer.min_epochs: expected at most trainer.max_epochs=5, got 11."),
        ("seed_everything=-1", "seed_everything: expected a number from 0 to 4294967295, or true for a random one"),
    ],
)
def test_the_command_refuses_it_and_shows_no_such_config(
    argument: str, message: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for last in ([], ["--print_config"]):
        assert main(["--config=configs/diffusion.yaml", f"--{argument}", *last]) == 1
        assert capsys.readouterr().err.startswith(f"error: {message}")
