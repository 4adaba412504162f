"""Every YAML under configs/ parses as what its folder says; recipes parse by the real command line, and run."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy

from realgen.benchmark.arena.arena import Arena
from realgen.cli import ConfigError
from realgen.cli.components import expand
from realgen.cli.diagnosis import problems
from realgen.cli.schema import group_of, slot_of
from realgen.cli.tree import read_file
from realgen.detectors import Detector
from realgen.fit import main
from realgen.judges import ArenaJudge
from realgen.metrics import ImageMetric
from realgen.objectives import Objective
from realgen.policies import Policy
from realgen.rewards import Reward

ROOT = Path(__file__).resolve().parent.parent
HEADER = re.compile("(# yaml-language-server: .*\n)?# \\w")
CONFIGS = ROOT / "configs"
KINDS: dict[str, Any] = {
    "arena": Arena,
    "callbacks": dict[str, Callback | None],
    "data": LightningDataModule,
    "detectors": Detector,
    "judges": ArenaJudge,
    "loggers": dict[str, Logger | None],
    "metrics": ImageMetric,
    "objectives": Objective,
    "policies": Policy,
    "rewards": Reward,
    "strategies": Strategy,
}
"""What the parts of a folder are."""

FILES = sorted(CONFIGS.rglob("*.y*ml"))
RECIPES = [path for path in FILES if path.parent == CONFIGS and not path.stem.startswith("realbench")]
FULL_SIZE = [path for path in RECIPES if "trainer/full_size.yaml" in path.read_text()]
RUNNABLE = [path for path in RECIPES if path not in FULL_SIZE]  # weights of the others are not here
# tests/test_serve.py, test_sweeps.py, test_full_size_recipes.py and test_realbench.py have the others
OTHERS = (CONFIGS, CONFIGS / "serve", CONFIGS / "sweeps", CONFIGS / "trainer", CONFIGS / "variants")
PARTS = [path for path in FILES if path.parent not in OTHERS]


FEW = {
    "detector.yaml": ["crops=2", "samples=16", "held_out_crops=1", "held_out_samples=16", "directory={tmp_path}"],
    "adversarial.yaml": ["prompts_per_iteration=2", "validation_batch_size=3", "directory={tmp_path}"],
}
"""Of the data's settings, for two iterations on less than the recipe makes; other recipes have prompts."""
FEW_PROMPTS = ["prompts_per_iteration=2", "validation_batch_size=3"]


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def parse_part(path: Path, kind: Any) -> None:
    """As ``--model.part=path`` would be parsed.

    Raises:
        AssertionError: If it is refused.
    """
    slot = slot_of(kind)
    tree = expand(read_file(path), slot)
    assert not list(problems(tree, slot, values=False))
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf+")
    parser.add_argument("--seed_everything", default=0)  # parts may refer to it, as in the command's parser
    parser.add_argument("--part", type=kind)
    try:
        parser.parse_object({"part": tree.plain()})
    except ArgumentError as error:
        raise AssertionError(list(problems(tree, slot)) or str(error)) from error


def test_the_tree_is_walked() -> None:
    assert len(FULL_SIZE) >= 4
    assert len(RUNNABLE) >= 11
    assert len(PARTS) >= 15
    assert CONFIGS / "diffusion.yaml" in RECIPES
    assert {path.parent.name for path in PARTS} == set(KINDS)
    assert {path.parent.parent for path in PARTS} == {CONFIGS}


def test_every_file_opens_with_what_it_is_for() -> None:
    assert len(FILES) >= 90
    assert [name(path) for path in FILES if path.suffix != ".yaml" or not HEADER.match(path.read_text())] == []


def test_every_part_is_what_its_folder_says(repository: Path) -> None:
    wrong = []
    for path in PARTS:
        try:
            parse_part(path, KINDS[path.parent.name])
        except (AssertionError, ConfigError) as error:
            wrong.append(f"{name(path)}: {error}")
    assert wrong == []


def test_every_trainer_has_known_arguments() -> None:
    slot, paths = group_of(Trainer), sorted((CONFIGS / "trainer").glob("*.yaml"))
    wrong = [f"{name(path)}: {problem}" for path in paths for problem in problems(expand(read_file(path), slot), slot)]
    assert paths
    assert wrong == []


def test_a_part_of_another_kind_is_refused() -> None:
    with pytest.raises(AssertionError, match="GRPOGuard is no Reward"):
        parse_part(CONFIGS / "objectives" / "grpo_guard.yaml", Reward)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_parses(path: Path, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--config", str(path), "--print_config"])
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert {"model", "data", "trainer", "callbacks", "loggers"} <= set(shown)


def leaves(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all keys of a mapping, inner ones too; names that a user is free to choose are left out."""
    if isinstance(value, dict):
        for key, child in value.items():
            if not (keys and keys[-1] in ("metrics", "callbacks", "loggers", "rewards", "weights")):
                yield (*keys, key)
            yield from leaves(child, (*keys, key))


RECIPE = read_file(CONFIGS / "diffusion.yaml").plain()
for _key in ("callbacks", "loggers"):
    RECIPE[_key] = read_file(CONFIGS / RECIPE[_key]).plain()


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The config that the default recipe and some arguments come to."""
    with pytest.raises(SystemExit):
        main(["--config", str(CONFIGS / "diffusion.yaml"), *arguments, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def test_what_recipes_share_can_be_changed_in_one_place(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shown(capsys)
    (tmp_path / "over.yaml").write_text("callbacks: {ema: {init_args: {decay: 0.5}}, progress: null}")
    keys = ["--callbacks.ema=null", "--callbacks.samples.every_n_iterations=3", "--trainer.max_epochs=2"]
    changed = shown(capsys, *keys)
    assert changed["callbacks"]["samples"]["init_args"].pop("every_n_iterations") == 3
    assert before["callbacks"]["samples"]["init_args"].pop("every_n_iterations") == 10
    assert changed["callbacks"] == {**before["callbacks"], "ema": None}
    assert changed["trainer"] == {**before["trainer"], "max_epochs": 2, "check_val_every_n_epoch": 2}
    overlaid = shown(capsys, "--config", str(tmp_path / "over.yaml"))["callbacks"]
    assert list(overlaid) == list(before["callbacks"])
    assert (overlaid["ema"]["init_args"]["decay"], overlaid["progress"]) == (0.5, None)


@pytest.fixture(scope="module")
def copied_configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(CONFIGS, tmp_path_factory.mktemp("copy") / "configs"))


def misspell(keys: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Double the last letter of one key of the default; returns the key as it is then called, and the config."""
    config = copy.deepcopy(RECIPE)
    *parents, key = keys
    inner = config
    for parent in parents:
        inner = inner[parent]
    misspelt = f"{key}{key[-1]}"
    inner[misspelt] = inner.pop(key)
    return ".".join(part for part in (*parents, misspelt) if part != "init_args" or part == misspelt), config


def test_every_misspelt_key_of_the_default_is_found(
    copied_configs: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, wrong = copied_configs / "misspelt.yaml", []
    for keys in leaves(RECIPE):
        shown, config = misspell(keys)
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        code = main(["--config", str(path)])
        message = capsys.readouterr().err
        said = f"Did you mean {keys[-1]}?" in message and "misspelt.yaml:" in message
        if code != 1 or not message.startswith(f"error: {shown}: ") or not said:
            wrong.append(f"{shown}: exit code {code}, {message.strip()}")
    assert len(list(leaves(RECIPE))) >= 50
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("path", RUNNABLE, ids=name)
def test_every_recipe_runs_two_iterations(path: Path, repository: Path, nano: Path, tmp_path: Path) -> None:
    short = ["max_epochs=1", "limit_train_batches=2", "limit_val_batches=1", "check_val_every_n_epoch=1"]
    run = tmp_path / "run"
    arguments = ["--config", str(path), f"--run_dir={run}", *(f"--trainer.{setting}" for setting in short)]
    arguments += [f"--data.{setting.format(tmp_path=tmp_path)}" for setting in FEW.get(path.name, FEW_PROMPTS)]
    few = [] if path.name == "detector.yaml" else ["--model.group_size=4"]
    if path.stem.startswith(("diffusion_", "adversarial")):  # their validation is that of diffusion.yaml
        few += ["--baseline=false", "--model.metrics=null"]
    assert main([*arguments, *few, "--loggers.wandb=null"]) == 0
    assert (run / "checkpoints" / "last.ckpt").exists()
    assert (run / "config.yaml").is_file()
