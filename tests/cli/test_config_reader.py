"""Configs of commands without a trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from realgen.cli import ConfigError
from realgen.cli.config_reader import ConfigReader, read_arguments
from realgen.cli.schema import ConfigSlot, group_of, slot_of
from realgen.cli.tree import find_paths
from realgen.detectors import Detector
from realgen.given_files import config_head
from realgen.modules import GRPOModule
from realgen.modules.data_anchor import DataAnchor
from realgen.serving import ServerSettings

TOYS = "tests.helpers.toy_bench"
ARGUMENTS = {
    "detectors": (dict[str, Detector | None], {}, "Detectors."),
    "number": (int, 3, "A number."),
}


@pytest.fixture
def reader() -> ConfigReader:
    return ConfigReader(ARGUMENTS, "usage of this")


def test_files_and_arguments_merge(reader: ConfigReader, tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text(f"class_path: {TOYS}.Brightness\ninit_args: {{batch_size: 5}}\n")
    (tmp_path / "a.yaml").write_text(f"detectors: {{a: part.yaml, b: {TOYS}.Brightness}}\nnumber: 4\n")
    config = reader.read(["--config", str(tmp_path / "a.yaml"), "--detectors.b=null", "--detectors.a.batch_size=6"])
    made = reader.make(config)
    assert (made.number, made.detectors["b"], made.detectors["a"].batch_size) == (4, None, 6)
    assert reader.make(config).detectors["a"] is not made.detectors["a"]
    assert config["detectors"]["a"]["init_args"]["batch_size"] == 6  # still plain values


def test_what_a_file_names_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("data/prompts/a.tar", "configs/own/w.pt", "here/data/other/b.tar", "here/only/c.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    values = ["data/prompts/{a,b}*.tar", "own/w.pt", "data/other/b.tar", "only/c.tar", "none/d.tar", "/", "a/${x}"]
    values += ["{prompt}, 35mm / film", "Is it real? Answer yes/no.", "*/c.tar"]
    part = tmp_path / "configs" / "parts" / "part.yaml"
    part.parent.mkdir()
    part.write_text(f"detectors: {json.dumps(values)}\n")
    arguments = [f"--config={part}", "--number=data/prompts/a.tar"]
    monkeypatch.chdir(tmp_path / "here")
    root = ConfigSlot(arguments={"detectors": slot_of(list[str]), "number": slot_of(str)})
    found = find_paths(read_arguments(arguments, root)).plain()
    assert found["detectors"][:2] == [str(tmp_path / "data/prompts/{a,b}*.tar"), str(tmp_path / "configs/own/w.pt")]
    assert found["detectors"][2:] == values[2:]  # in the current folder, nowhere, absolute, not a path
    assert found["number"] == "data/prompts/a.tar"  # as it was typed
    monkeypatch.chdir(tmp_path)
    assert find_paths(read_arguments(arguments, root)).plain()["detectors"][0] == values[0]


def test_what_a_run_s_config_names_is_found_where_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (
        "start ü\n/data/a.tar",
        "start ü\n/data/b.tar",
        "here/data/b.tar",
        "runs/recipe/now/c/d.tar",
        "start ü\n/c/d.tar",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    values = ["data/a.tar", "data/b.tar", "c/d.tar", "none/e.tar"]
    recorded = tmp_path / "runs/recipe/now/config.yaml"
    root = ConfigSlot(arguments={"detectors": slot_of(list[str])})
    monkeypatch.chdir(tmp_path / "start ü\n")
    head = config_head("python -m realgen.fit")
    monkeypatch.chdir(tmp_path / "here")
    for lines, first in ((head, str(tmp_path / "start ü\n/data/a.tar")), ("", values[0])):
        recorded.write_text(f"{lines}detectors: {json.dumps(values)}\n")
        found = find_paths(read_arguments([f"--config={recorded}"], root)).plain()["detectors"]
        assert found == [first, values[1], str(recorded.parent / "c/d.tar"), values[3]]


def test_defaults_stand_where_nothing_is_given(reader: ConfigReader) -> None:
    assert reader.read([]) == {"detectors": {}, "number": 3}


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
def test_mistakes_take_one_line(reader: ConfigReader, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        reader.read(arguments)
    assert "\n" not in str(error.value)


def test_a_constructor_that_refuses_is_named(reader: ConfigReader) -> None:
    config = reader.read([f"--detectors.a={TOYS}.Brightness", "--detectors.a.batch_size=0"])
    with pytest.raises(ConfigError, match=r"^detectors\.a\.batch_size must be at least 1, got 0"):
        reader.make(config)


def test_help_and_config_are_printed(reader: ConfigReader, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        reader.read(["--help"])
    assert capsys.readouterr().out.startswith("usage: usage of this")
    with pytest.raises(SystemExit):
        reader.read(["--number=7", "--print_config"])
    assert "number: 7" in capsys.readouterr().out


def test_help_shows_what_the_fields_of_a_dataclass_mean(capsys: pytest.CaptureFixture[str]) -> None:
    server = (ServerSettings, ServerSettings(), "Where it is served.")
    with pytest.raises(SystemExit):
        ConfigReader({"server": server}, "usage of this").read(["--help"])
    assert "Largest number of images in a request, >= 1." in " ".join(capsys.readouterr().out.split())


def test_a_dataclass_that_is_null_lacks_no_argument(tmp_path: Path) -> None:
    """As a run's own config.yaml holds it; without the null its weight is asked for."""
    reader = ConfigReader({"anchor": (DataAnchor | None, None, "An option.")}, "usage of this")
    (tmp_path / "a.yaml").write_text("anchor: null\n")
    assert reader.read(["--config", str(tmp_path / "a.yaml")]) == {"anchor": None}
    with pytest.raises(ConfigError, match=r"anchor\.weight: missing; DataAnchor needs it"):
        reader.read(["--anchor={}"])


def test_files_and_arguments_count_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{x: 1, y: 1}")
    (tmp_path / "b.yaml").write_text("{x: 2}")
    root = ConfigSlot(arguments={"x": slot_of(int), "y": slot_of(int)})
    a, b = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    assert read_arguments(["-c", a, "--config", b, "--y=3"], root).plain() == {"x": 2, "y": "3"}
    assert read_arguments(["-c", a, "--x=5", f"--config={b}"], root).plain() == {"x": 2, "y": 1}
    assert read_arguments(["-c", "{x: 7}"], root).plain() == {"x": 7}


def test_an_overlay_that_takes_back_another_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    overlays = [f"--config=configs/variants/{name}.yaml" for name in ("fast_tail", "low_precision_steps")]
    recipe = "--config=configs/diffusion.yaml"
    root = ConfigSlot(arguments={"model": slot_of(GRPOModule), "trainer": group_of(Trainer)})
    read_arguments([recipe, overlays[0], "--model.policy.num_steps=8"], root)
    assert capsys.readouterr().err == ""
    read_arguments([recipe, *overlays], root)
    assert capsys.readouterr().err == (
        "note: model.policy.solver: configs/variants/low_precision_steps.yaml:10 replaces what "
        "configs/variants/fast_tail.yaml:11 says.\n"
    )
