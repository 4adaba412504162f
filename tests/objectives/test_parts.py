"""Every YAML part of configs/objectives becomes the objective it names, with the numbers it states."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

import realgen.objectives
from realgen.objectives import Objective

PARTS = sorted((Path(__file__).parents[2] / "configs" / "objectives").rglob("*.yaml"))


def test_parts_were_found():
    assert {"grpo", "grpo_guard", "dr_grpo"} <= {part.stem for part in PARTS}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.stem)
def test_part_becomes_an_objective(part):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "objective")
    objective = parser.instantiate(parser.parse_args([f"--objective={part}"])).objective
    stated = yaml.safe_load(part.read_text())
    assert type(objective) is getattr(realgen.objectives, stated["class_path"].rpartition(".")[2])
    # A number that YAML reads as a string would stay one here and differ.
    assert vars(objective) | stated["init_args"] == vars(objective)
