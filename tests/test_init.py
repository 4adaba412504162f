"""``python -m realgen.init``: the recipes in a folder of one's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

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
    assert run_command(partial(realgen.init._init, [str(tmp_path / "mine")], tmp_path), doing="testing") == 1
    assert "holds no recipes: this is an installed package" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_checkout_gives_the_embedded_models_too(tmp_path: Path) -> None:
    for name in ("configs/a.yaml", "data/nano/w"):
        (tmp_path / "source" / name).parent.mkdir(parents=True)
        (tmp_path / "source" / name).write_text(name)
    assert realgen.init._init([str(tmp_path / "mine")], tmp_path / "source") == 0
    assert (tmp_path / "mine" / "data" / "nano" / "w").read_text() == "data/nano/w"
