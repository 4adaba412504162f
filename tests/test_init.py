"""``python -m realgen.init``: the recipes in a folder of one's own."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from setuptools import Distribution

import realgen.init
from realgen.cli.error_frame import run_command
from realgen.init import main

ROOT = Path(__file__).resolve().parents[1]


def test_recipes_and_models_are_written_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realgen.init, "PARTS", ("configs",))  # the models are 18 MB
    mine = tmp_path / "new" / "mine"
    assert main([str(mine)]) == 0
    assert "holds no embedded models" in capsys.readouterr().out
    written = {path.relative_to(mine): path.read_bytes() for path in mine.rglob("*.yaml")}
    assert written == {path.relative_to(ROOT): path.read_bytes() for path in (ROOT / "configs").rglob("*.yaml")}
    assert main([str(mine)]) == 1
    assert capsys.readouterr().err == f"error: {mine}/configs is there already; give another folder.\n"


def test_a_package_without_recipes_says_so_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    command = partial(realgen.init._init, [str(tmp_path / "mine")], tmp_path / "realgen")
    assert run_command(command, doing="testing") == 1
    assert f"{tmp_path / 'realgen'} holds no recipes. Run it from a checkout" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_an_installed_package_gives_its_recipes_and_nothing_of_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files are those of a wheel; in its folder may lie packages of others that are called configs and data."""
    monkeypatch.chdir(ROOT)
    arguments: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", arguments.update)
    runpy.run_path("setup.py")
    distribution = Distribution({**arguments, "script_name": "setup.py"})
    distribution.parse_config_files()
    distribution.get_command_obj("egg_info").egg_base = str(tmp_path)
    build = distribution.get_command_obj("build_py")
    build.build_lib = str(tmp_path / "site")
    build.ensure_finalized()
    build.run()
    package = tmp_path / "site" / "realgen"
    assert (package / "policies" / "base.py").is_file()
    for name in ("configs", "data"):
        (tmp_path / "site" / name).mkdir()
        (tmp_path / "site" / name / "theirs.yaml").touch()
    assert realgen.init._init([str(tmp_path / "mine")], package) == 0
    assert "holds no embedded models" in capsys.readouterr().out
    written = {path.relative_to(tmp_path / "mine"): path.read_bytes() for path in (tmp_path / "mine").rglob("*.*")}
    assert written == {path.relative_to(ROOT): path.read_bytes() for path in (ROOT / "configs").rglob("*.*")}


def test_a_checkout_gives_the_embedded_models_too(tmp_path: Path) -> None:
    for name in ("configs/a.yaml", "data/nano/w"):
        (tmp_path / "source" / name).parent.mkdir(parents=True)
        (tmp_path / "source" / name).write_text(name)
    assert realgen.init._init([str(tmp_path / "mine")], tmp_path / "source" / "realgen") == 0
    assert (tmp_path / "mine" / "data" / "nano" / "w").read_text() == "data/nano/w"
