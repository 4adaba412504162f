"""The command line before it is understood."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from realgen.cli import ConfigError
from realgen.cli.arguments import (
    asks_for_help,
    check_files,
    first_config,
    fix_arguments,
    pairs,
    take_arguments,
    usable_device,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("given", "fixed"),
    [
        (["--config", "a.yaml", "--model.lr=0.1"], ["--config", "a.yaml", "--model.lr=0.1"]),
        (["model.lr=0.1", "data.n=3"], ["--model.lr=0.1", "--data.n=3"]),
        (["model.metrics.kid=None", "--x=None"], ["--model.metrics.kid=null", "--x=null"]),
        (["--name", "a=b"], ["--name", "a=b"]),
        (["--name=None of these"], ["--name=None of these"]),
        (["-c", "a=b.yaml"], ["-c", "a=b.yaml"]),
        (["--x={'a': None, 'b': [True, 4.0]}"], ["--x={a: null, b: [true, 4.0]}"]),  # an agent's dicts are Python's
        (["x=[1e-05, 'None']"], ["--x=[1.0e-05, None]"]),
        (["--x={a: None}", '--y={"a": null, "b": "None"}'], ["--x={a: None}", '--y={"a": null, "b": "None"}']),
    ],
)
def test_arguments_are_fixed(given: list[str], fixed: list[str]) -> None:
    assert fix_arguments(given) == fixed


def test_those_of_the_process_are_fixed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fit.py", "model.lr=0.1"])
    assert take_arguments(None) == sys.argv[1:] == ["--model.lr=0.1"]  # Lightning starts other processes with them
    assert take_arguments(["data.n=3"]) == ["--data.n=3"]
    assert sys.argv[1:] == ["--model.lr=0.1"]


def test_files_are_checked_without_torch() -> None:
    code = (
        "import sys; from realgen.fit import main; code = main(['--config', 'configs/difusion.yaml'])\n"
        "sys.exit(code if 'torch' not in sys.modules else 3)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    expected = (
        "error: cannot read configs/difusion.yaml: No such file or directory. Did you mean configs/diffusion.yaml?"
    )
    assert ended.stderr == f"{expected}\n"


def test_files_are_checked_unless_help_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: {")
    with pytest.raises(ConfigError, match="not valid YAML"):
        check_files(["-c", str(tmp_path / "a.yaml")])
    check_files(["-c", "nowhere.yaml", "--help"])
    check_files(["-c", "{x: 7}", "--print_config"])
    with pytest.raises(ConfigError, match=r"model.reward: cannot read .*b.yaml"):
        check_files([f"--model.reward={tmp_path / 'b.yaml'}"])
    check_files(["--model.reward={part_file: a.yaml}", "--model.x=${seed_everything}.yaml"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["foo"], "unrecognized argument 'foo'"),
        (["-x", "3"], "unrecognized argument '-x'"),
        (["--model.lr"], "--model.lr needs a value"),
        (["--config", "--model.lr=3"], "--config needs a value"),
        (["--trainer.callbacks+=x"], r"--trainer.callbacks\+= is not supported"),
    ],
)
def test_what_is_no_argument_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(pairs(argv))


def test_values_may_hold_anything() -> None:
    assert list(pairs(["--a=b=c", "--x", "-1", "--y="])) == [("a", "b=c"), ("x", "-1"), ("y", "")]


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        (["--help"], True),
        (["-h"], True),
        (["--model.help=realgen.modules.GRPOModule"], True),
        (["--callbacks.help", "EMA"], True),
        (["--model.helper=3"], False),
        (["--x=--help"], False),
    ],
)
def test_asks_for_help(argv: list[str], asked: bool) -> None:
    assert asks_for_help(argv) is asked


def test_the_recipe_is_the_first_file() -> None:
    assert first_config(["--x=1", "--config=a/b.yaml", "-c", "c.yaml"]) == "b"
    assert first_config(["--config", "{x: 1}"]) == "run"


def test_a_device_is_tried_before_it_is_used() -> None:
    assert usable_device("cpu") == torch.device("cpu")
    assert usable_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("toaster", "cpu:x", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(ValueError, match=f"device: '{name}' cannot be used"):
            usable_device(name)
