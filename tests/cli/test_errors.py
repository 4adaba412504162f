"""Every mistake gives one or two lines that name the argument, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from realgen.cli import ConfigError
from realgen.cli.diagnosis import condense
from realgen.cli.realgen_cli import RealGenCLI
from tests.cli.conftest import run
from tests.helpers.cli_toys import Data

Fit = Callable[..., int]


TOYS = "tests.helpers.cli_toys"
REWARDS = "model.init_args.reward.init_args.rewards"
ALLOWED = f"Allowed: {TOYS}.Bright, {TOYS}.Pretrained, {TOYS}.Weighted."
A_REWARD = "expected a Reward (class_path and init_args, or a part file)"


@pytest.fixture
def failure(fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run, and return what stands on stderr behind ``error: ``."""

    def run(*argv: str) -> str:
        before = set(folder.rglob("*"))
        assert fit(*argv) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert len(captured.err.splitlines()) <= 2
        assert "Traceback" not in captured.err
        assert set(folder.rglob("*")) == before
        return captured.err.removeprefix("error: ").rstrip("\n")

    return run


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model.init_args.lrr=3", "model.lrr: Model has no such key (command line). Did you mean lr?"),
        ("model.lrr=3", "model.lrr: Model has no such key (command line). Did you mean lr?"),
        ("modle.lr=3", "modle: config has no such key (command line). Did you mean model?"),
        ("trainer.max_step=3", "trainer.max_step: Trainer has no such key (command line). Did you mean max_steps?"),
        ("data.paht=3", "data.paht: Data has no such key (command line). Did you mean path?"),
        ("model.optimizer.lrr=3", "model.optimizer.lrr: SGD has no such key (command line). Did you mean lr?"),
        ("model.reward.rewards.bright.targett=3",
         "model.reward.rewards.bright.targett: Bright has no such key (command line). Did you mean target?"),
        ("callbacks.last.every_n_epoch=3",
         "callbacks.last.every_n_epoch: LastCheckpoint has no such key (command line). Did you mean every_n_epochs?"),
        ("model.group_size=abc", "model.group_size: expected int, got 'abc' (command line)."),
        ("model.group_size=8.5", "model.group_size: expected int, got '8.5' (command line)."),
        ("model.group_size=null", "model.group_size: expected int, got null (command line)."),
        ("model.reward=null", "model.reward: expected Reward, got null (command line)."),
        ("model=null", "model: expected Base, got null (command line)."),
        ("trainer=null", "trainer: expected Trainer, got null (command line)."),
        ("trainer.max_epochs=abc", "trainer.max_epochs: expected int or null, got 'abc' (command line)."),
        ("baseline=maybe", "baseline: expected bool, got 'maybe' (command line)."),
        ("callbacks.lastt=null", "callbacks.lastt: there is no such entry to drop (command line). Did you mean last?"),
        ("callbacks.lsat.every_n_epochs=3",
         "callbacks.lsat: there is no such entry to change (command line). Did you mean last?"),
        ("loggers.wandb=null", "loggers.wandb: there is no such entry to drop (command line)."),
        ("model.reward.weights.brigth=null",
         "model.reward.weights.brigth: there is no such entry to drop (command line). Did you mean bright?"),
        ("callbacks={lastt: null}",
         "callbacks.lastt: there is no such entry to drop (command line). Did you mean last?"),
        ("model.lr=${oc.env:REALGEN_UNSET}",
         "model.lr: Environment variable 'REALGEN_UNSET' not found (command line)."),
        ("model.rl=1", "model.rl: Model has no such key (command line). Did you mean lr?"),
        ("max_epoch=3", "max_epoch: config has no such key (command line). Did you mean trainer.max_epochs?"),
        ("max-epochs=3", "max-epochs: config has no such key (command line). Did you mean trainer.max_epochs?"),
        ("print_configs=skip_default",
         "print_configs: config has no such key (command line). Did you mean print_config?"),
        ("model.lr=${trainer.max_epoch}",
         "model.lr: Interpolation key 'trainer.max_epoch' not found (command line). Did you mean trainer.max_epochs?"),
        ("model.lr=${model.group_size}",
         "model.lr: Interpolation key 'model.group_size' not found (command line). "
         "Did you mean model.init_args.group_size?"),
        ("model.lr=${oc.evn:HOME}",
         "model.lr: Unsupported interpolation type oc.evn (command line). Did you mean oc.env?"),
        ("model.reward=mylab.rewards.Mine",
         "model.reward: there is no module mylab. To use one of your own, name the folder that holds it: "
         "PYTHONPATH=FOLDER_OF_MYLAB (command line)"),
        ("model.reward.weights.bright=x", "model.reward.weights.bright: expected float, got 'x' (command line)."),
        ("model.reward.rewards.bright.mode=meen",
         "model.reward.rewards.bright.mode: expected 'mean' or 'median', got 'meen' (command line). Did you mean"),
        (f"model.reward={TOYS}.Pretrained",
         "model.reward.checkpoint: missing; Pretrained needs it (str) (command line)."),
        (f"model.reward={TOYS}.Brigth",
         f"model.reward: there is no {TOYS}.Brigth. Did you mean {TOYS}.Bright? (command line)"),
        ("model.reward=tests.helpers.cli_toy.Bright",
         f"model.reward: there is no module tests.helpers.cli_toy. Did you mean {TOYS}? (command line)"),
        ("model.reward=relgen.rewards.Realism",
         "model.reward: there is no module relgen. Did you mean realgen? (command line)"),
        ("model.reward=torch.nn.Linear",
         f"model.reward: Linear is no Reward. {ALLOWED} (command line)"),
        (f"model.reward={TOYS}.Reward",
         f"model.reward: Reward is abstract. {ALLOWED} (command line)"),
        (f"model={TOYS}.Bright", f"model: Bright is no Base. Allowed: {TOYS}.Model. (command line)"),
        ("model.reward=Brigth",
         "model.reward: no Reward is called 'Brigth'; give its import path. Did you mean Bright? (command line)"),
        ("model.reward=3", f"model.reward: {A_REWARD}, got '3' (command line)."),
        ("model.reward.rewards.new.target=3",
         f"model.reward.rewards.new: class_path is missing; expected a Reward (command line). {ALLOWED}"),
        ("model.reward.rewards.bright.target=-1", "model.reward.rewards.bright.target must be >= 0, got -1.0."),
        ("model.group_size=1", "model.group_size must be at least 2, got 1."),
        ("callbacks.last.every_n_epochs=0", "callbacks.last.every_n_epochs must be at least 1, got 0."),
        ("ckpt_path=last", "ckpt_path: found no checkpoints/last.ckpt in any run of runs/toy. Leave it out to start."),
        ("ckpt_path=x.ckpt", "ckpt_path: there is no x.ckpt. Expected a checkpoint, or: last."),
        ("trainer.callbacks.x=3", "trainer.callbacks: class_path is missing; expected a Callback (command line)."),
    ],
)  # fmt: skip
def test_on_the_command_line(argument: str, message: str, failure: Callable[..., str]) -> None:
    assert failure(f"--{argument}").startswith(message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("modle", {}, "modle: config has no such key (bad.yaml:{line}). Did you mean model?"),
        ("model.init_arg", {},
         "model.init_arg: a component has only class_path and init_args (bad.yaml:{line}). Did you mean init_args?"),
        ("model.group_size", 3, "model.group_size: must stand under init_args (bad.yaml:{line})."),
        ("model.init_args.group_size", "abc", "model.group_size: expected int, got 'abc' (bad.yaml:{line})."),
        ("model.init_args.group_size", None, "model.group_size: expected int, got null (bad.yaml:{line})."),
        ("model.init_args.reward", 5, "model.reward: " + A_REWARD + ", got 5 (bad.yaml:{line})."),
        ("model.init_args", [1], "model: expected a mapping of arguments, got "),
        (f"{REWARDS}.bright.init_args.targett", 3,
         "model.reward.rewards.bright.targett: Bright has no such key (bad.yaml:{line}). Did you mean target?"),
        (f"{REWARDS}.bright.init_args.target", [1],
         "model.reward.rewards.bright.target: expected float, got [1] (bad.yaml:{line})."),
        (f"{REWARDS}.bright.class_path", "torch.nn.Linear", "model.reward.rewards.bright: Linear is no Reward."),
        (f"{REWARDS}.bright", "nope.yaml", "model.reward.rewards.bright: cannot read nope.yaml: No such file"),
        (f"{REWARDS}.third", {"class_path": f"{TOYS}.Pretrained"},
         "model.reward.rewards.third.checkpoint: missing; Pretrained needs it (str) (bad.yaml:{line})."),
        ("trainer.logger", [{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dirr": 3}}],
         "trainer.logger[0].save_dirr: CSVLogger has no such key (bad.yaml:"),
        ("trainer", 3, "trainer: expected a mapping of arguments, got 3 (bad.yaml:{line})."),
        ("model.init_args.lr", "${model.init_args.nope}",
         "model.lr: Interpolation key 'model.init_args.nope' not found (bad.yaml:{line})."),
    ],
)  # fmt: skip
def test_in_a_file(key: str, value: Any, message: str, failure: Callable[..., str], folder: Path) -> None:
    config = yaml.safe_load((folder / "toy.yaml").read_text())
    *parents, last = key.split(".")
    inner = config
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    text = yaml.safe_dump(config, sort_keys=False)
    (folder / "bad.yaml").write_text(text)
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.strip().startswith(f"{last}:")]
    expected = [message.format(line=line) if "{line}" in message else message for line in lines]
    found = failure("--config", "bad.yaml")
    assert any(found.startswith(text) for text in expected), (found, expected)


def test_files_that_cannot_be_read(failure: Callable[..., str], folder: Path) -> None:
    assert failure("--config", "toi.yaml") == "cannot read toi.yaml: No such file or directory. Did you mean toy.yaml?"
    (folder / "bad.yaml").write_text("model: {\n")
    assert failure("--config", "bad.yaml").startswith("bad.yaml:2: not valid YAML: ")
    (folder / "parts").mkdir()
    (folder / "parts" / "mine.yaml").write_text("{}")
    for near in ("parts/mien.yaml", "prats/mine.yaml", "parts/mine.yml", "parts/mine"):
        assert "Did you mean parts/mine.yaml?" in failure(f"--model.reward={near}")
    found = failure("--model.reward=toi.yaml")
    assert found.startswith("model.reward: cannot read toi.yaml: No such file or directory. Did you mean toy.yaml?")


def test_what_is_no_config_file(failure: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "configs" / "rewards").mkdir(parents=True)
    (folder / "configs" / "rewards" / "mine.yaml").write_text("{}")
    (folder / ".hidden.yaml").write_text("{}")
    (folder / "empty.yaml").write_text("")
    assert failure("--model.reward=mine.yaml").endswith("Did you mean configs/rewards/mine.yaml? (command line)")
    assert failure("--config=qqqqqqqqq.yaml").endswith("No such file or directory. Allowed: empty.yaml, toy.yaml.")
    assert (
        failure("--config=configs/rewards")
        == "cannot read configs/rewards: Is a directory. Allowed: configs/rewards/mine.yaml."
    )
    assert failure("--config=empty.yaml") == "empty.yaml: expected a mapping (key: value), got nothing."


def test_a_null_that_drops_nothing_in_a_file(failure: Callable[..., str], folder: Path) -> None:
    (folder / "over.yaml").write_text("callbacks: {lsat: null}")
    assert failure("--config=over.yaml") == (
        "callbacks.lsat: there is no such entry to drop (over.yaml:1). Did you mean last?"
    )


def test_a_config_may_write_out_what_is_dropped(fit: Fit, folder: Path) -> None:
    """A run's own config.yaml does."""
    text = (folder / "toy.yaml").read_text().replace("callbacks:", "callbacks:\n  progress: null")
    (folder / "toy.yaml").write_text(text)
    with pytest.raises(SystemExit, match="0"):
        fit("--print_config")


def test_an_option_without_value(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--config=toy.yaml", "--print_configs"]) == 1
    message = "error: --print_configs needs a value: --print_configs=... Did you mean --print_config?\n"
    assert capsys.readouterr().err == message
    assert run(["--config"]) == 1
    assert capsys.readouterr().err == "error: --config needs a value: --config=...\n"


def test_a_module_of_ones_own_that_fails(failure: Callable[..., str], folder: Path, monkeypatch: Any) -> None:
    (folder / "mylab.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(folder))
    found = failure("--model.reward=mylab.Mine")
    assert found == "model.reward: cannot import mylab.Mine: ZeroDivisionError: division by zero. (command line)"


def test_without_a_recipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--baseline=false"]) == 1
    assert capsys.readouterr().err == "error: model: missing. Give a recipe: --config configs/diffusion.yaml\n"


def test_a_run_is_not_overwritten(failure: Callable[..., str], folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "config.yaml").touch()
    first, second = failure("--run_dir=mine").splitlines()
    assert first == "run_dir: mine holds a run already. Go on with it: --run_dir=mine --ckpt_path=last"
    assert second.strip() == "Or choose another folder, or none."


def test_with_the_variable_set_the_whole_traceback_comes(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALGEN_TRACEBACK", "1")
    with pytest.raises(ConfigError, match=r"model\.lrr"):
        fit("--model.lrr=3")


def test_what_shows_only_when_the_parts_are_put_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def check(cli: RealGenCLI) -> None:
        cli.model.reward.rewards["other"].load()

    assert run(["--config", "toy.yaml"], check) == 1
    message = "error: model.reward.rewards.other.checkpoint must hold weights, got 'x'.\n"
    assert capsys.readouterr().err == message
    assert [path.name for path in folder.iterdir()] == ["toy.yaml"]


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("Parser key \"a\":\n  Expected a <class 'int'>. Got value: x", "a: Expected a <class 'int'>. Got value: x"),
        ("something else\nin two lines", "something else"),
        (
            'Parser key "model":\n  Does not validate against any of the Union subtypes\n  Subtypes: [A, None]\n'
            "  Errors:\n    - Problem with given class_path 'A':\n        Parser key \"lr\":\n          Bad thing\n"
            "    - Expected a <class 'NoneType'>\n  Given value type: <class 'dict'>\n  Given value: {}",
            "model.lr: Bad thing",
        ),
    ],
)
def test_what_the_walk_does_not_find_is_condensed(message: str, cause: str) -> None:
    assert condense(message) == cause


OFFLINE = "{wandb: {class_path: lightning.pytorch.loggers.WandbLogger, init_args: {project: p, offline: true}}}"


def empty(self: Data, stage: str) -> None:
    raise ValueError(f"path must hold prompts, {self.path!r} holds none.")


@pytest.mark.parametrize("arguments", [[], ["--run_dir=deep/in/here"], ["--baseline=false"]])
def test_a_mistake_that_the_data_find_in_their_setup(
    failure: Callable[..., str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(Data, "setup", empty)
    assert failure(*arguments) == "data.path must hold prompts, 'x' holds none."


@pytest.mark.slow
def test_a_run_of_wandb_that_never_began_is_taken_back(
    failure: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # the logger sets it to a synonym, and this puts it back
    monkeypatch.setattr(Data, "setup", empty)
    assert failure(f"--loggers={OFFLINE}") == "data.path must hold prompts, 'x' holds none."


def test_what_was_there_before_stays(fit: Fit, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "runs" / "toy" / "other").mkdir(parents=True)
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").touch()
    monkeypatch.setattr(Data, "setup", empty)
    assert fit() == fit("--run_dir=mine") == 1
    assert [path.name for path in (folder / "runs" / "toy").iterdir()] == ["other"]
    assert (folder / "mine" / "notes.txt").exists()
    assert (folder / "mine" / "error.log").read_text().startswith("Traceback")
