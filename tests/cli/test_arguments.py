"""The command line before it is understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from realgen.cli.arguments import asks_for_help, first_config, fix_arguments, pairs, read_arguments
from realgen.cli.config_error import ConfigError
from realgen.cli.schema import Place, place_of


@pytest.mark.parametrize(
    ("given", "fixed"),
    [
        (["--config", "a.yaml", "--model.lr=0.1"], ["--config", "a.yaml", "--model.lr=0.1"]),
        (["model.lr=0.1", "data.n=3"], ["--model.lr=0.1", "--data.n=3"]),
        (["model.metrics.kid=None", "--x=None"], ["--model.metrics.kid=null", "--x=null"]),
        (["--name", "a=b"], ["--name", "a=b"]),
        (["--name=None of these"], ["--name=None of these"]),
        (["-c", "a=b.yaml"], ["-c", "a=b.yaml"]),
    ],
)
def test_arguments_are_fixed_in_place(given: list[str], fixed: list[str]) -> None:
    fix_arguments(given)
    assert given == fixed


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


def test_files_and_arguments_count_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{x: 1, y: 1}")
    (tmp_path / "b.yaml").write_text("{x: 2}")
    root = Place(arguments={"x": place_of(int), "y": place_of(int)})
    a, b = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    assert read_arguments(["-c", a, "--config", b, "--y=3"], root).plain() == {"x": 2, "y": "3"}
    assert read_arguments(["-c", a, "--x=5", f"--config={b}"], root).plain() == {"x": 2, "y": 1}
    assert read_arguments(["-c", "{x: 7}"], root).plain() == {"x": 7}


def test_the_recipe_is_the_first_file() -> None:
    assert first_config(["--x=1", "--config=a/b.yaml", "-c", "c.yaml"]) == "b"
    assert first_config(["--config", "{x: 1}"]) == "run"
