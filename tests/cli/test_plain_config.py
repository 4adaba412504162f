"""Configs of commands without a trainer, and the folders that realgen.realbench takes again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from realgen.cli import ConfigError
from realgen.cli.plain_config import Argument, PlainConfig
from realgen.cli.realbench_arguments import gather_images
from realgen.detectors import Detector

TOYS = "tests.helpers.toy_bench"
ARGUMENTS = {
    "detectors": Argument(dict[str, Detector | None], {}, "Detectors."),
    "number": Argument(int, 3, "A number."),
}


@pytest.fixture
def plain() -> PlainConfig:
    return PlainConfig(ARGUMENTS, "usage of this")


def test_files_and_arguments_merge(plain: PlainConfig, tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text(f"class_path: {TOYS}.Brightness\ninit_args: {{batch_size: 5}}\n")
    (tmp_path / "a.yaml").write_text(f"detectors: {{a: part.yaml, b: {TOYS}.Brightness}}\nnumber: 4\n")
    config = plain.read(["--config", str(tmp_path / "a.yaml"), "--detectors.b=null", "--detectors.a.batch_size=6"])
    made = plain.make(config)
    assert (made.number, made.detectors["b"], made.detectors["a"].batch_size) == (4, None, 6)
    assert plain.make(config).detectors["a"] is not made.detectors["a"]
    assert config["detectors"]["a"]["init_args"]["batch_size"] == 6  # still plain values


def test_defaults_stand_where_nothing_is_given(plain: PlainConfig) -> None:
    assert plain.read([]) == {"detectors": {}, "number": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--numberx=1"], "numberx: config has no such key .* Did you mean number"),
        (["--number=x"], "number: expected int, got 'x'"),
        (["--detectors.a=torch.nn.Linear"], "detectors.a: .*Linear is no Detector"),
        ([f"--detectors.a={TOYS}.Brightness", "--detectors.a.batch=1"], "has no such key .* Did you mean batch_size"),
        (["--config", "none.yaml"], "cannot read none.yaml"),
    ],
)
def test_mistakes_take_one_line(plain: PlainConfig, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        plain.read(arguments)
    assert "\n" not in str(error.value)


def test_a_constructor_that_refuses_is_named(plain: PlainConfig) -> None:
    config = plain.read([f"--detectors.a={TOYS}.Brightness", "--detectors.a.batch_size=0"])
    with pytest.raises(ConfigError, match=r"^detectors\.a\.batch_size must be at least 1, got 0"):
        plain.make(config)


def test_help_and_config_are_printed(plain: PlainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plain.read(["--help"])
    assert capsys.readouterr().out.startswith("usage: usage of this")
    with pytest.raises(SystemExit):
        plain.read(["--number=7", "--print_config"])
    assert "number: 7" in capsys.readouterr().out


def test_folders_may_be_given_again_and_again() -> None:
    arguments = [
        "--config",
        "a.yaml",
        "--images",
        "x/flux",
        "--num_prompts=3",
        "--images=mine=y",
        "--images",
        "z/photo",
    ]
    assert gather_images(arguments) == [
        "--config", "a.yaml", "--policies={}", '--images={"flux": "x/flux", "mine": "y", "z": "z/photo"}',
        "--num_prompts=3",
    ]  # fmt: skip
    kept = ["--images={}", "--images=null", "--images.a=b", "--dry_run=true"]
    assert gather_images([*kept[:3], "--dry-run"]) == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "a/x", "--images", "b/x"], "a/x and b/x are both called x. Give names"),
        (["--images"], "--images needs a value"),
        (["--images", "--real=x"], "--images needs a value"),
    ],
)
def test_unclear_folders_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gather_images(arguments)
