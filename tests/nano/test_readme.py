"""The tables of the nano models' README say what the code and the figures say."""

import json

import pytest

from experiments.nano import detectors, diffusion, vae
from experiments.nano.readme import figures_table, fill, fill_all, recipe_table


def test_recipe_has_the_numbers_of_every_stage():
    header, _, *rows = [line.strip("| ").split(" | ") for line in recipe_table().splitlines()]
    assert header == ["stage", "steps", "batch", "crops per subject", "seed"]
    names = ["vae", "sd3", "clip", "encoder", "omniaid", "effort", "forensic_chat", "imagenet_probe", "llm"]
    assert [row[0] for row in rows] == names
    assert rows[0][1] == f"{vae.STEPS}, then {vae.REFINE_STEPS} of the decoder"
    assert rows[1][1:] == [str(n) for n in (diffusion.STEPS, diffusion.BATCH_SIZE, diffusion.CROPS, diffusion.SEED)]
    assert rows[4][4] == str(detectors.SEEDS["omniaid"])


def test_recipe_follows_the_constants(monkeypatch):
    before = recipe_table()
    monkeypatch.setattr(diffusion, "STEPS", 123456)
    assert "| sd3 | 123456 |" in recipe_table()
    assert "123456" not in before


def test_figures_are_a_line_each():
    table = figures_table({"clip": {"a": 0.12345, "b": 1.0}, "sd3": {"c": 2.0}})
    assert table.splitlines()[2:] == ["| clip | a | 0.123 |", "| clip | b | 1.000 |", "| sd3 | c | 2.000 |"]


def test_fill_replaces_and_may_be_repeated():
    text = "top\n<!-- figures -->\nold\n<!-- /figures -->\nend\n"
    filled = fill(text, "figures", "new")
    assert filled == "top\n<!-- figures -->\nnew\n<!-- /figures -->\nend\n"
    assert fill(filled, "figures", "new") == filled


@pytest.mark.parametrize("text", ["none", "<!-- x -->", "<!-- /x -->", "<!-- x --><!-- x --><!-- /x -->"])
def test_markers_must_be_there_once(text):
    with pytest.raises(ValueError, match="<!-- x --> and <!-- /x --> once each"):
        fill(text, "x", "table")


def test_fill_all_fills_both():
    text = "<!-- recipe --><!-- /recipe --> and <!-- figures --><!-- /figures -->"
    filled = fill_all(text, {"clip": {"a": 1.0}})
    assert recipe_table() in filled
    assert "| clip | a | 1.000 |" in filled


def test_shipped_readme_tells_the_shipped_figures(nano):
    text = (nano / "README.md").read_text(encoding="utf-8")
    assert fill_all(text, json.loads((nano / "figures.json").read_text(encoding="utf-8"))) == text
