"""The JSON schema of recipes accepts them and refuses misspelt keys, by a validator of the words that it uses."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import LightningDataModule

from realgen.benchmark.realbench_config import realbench_arguments
from realgen.cli.components import expand
from realgen.cli.json_schema import recipe_schema
from realgen.cli.realgen_cli import config_root
from realgen.cli.schema import ConfigSlot, slot_of
from realgen.cli.tree import read_file
from realgen.modules.base import TrainableModule
from realgen.schema import main

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = ("callbacks", "detectors", "lagged", "loggers", "metrics", "policies", "rewards", "weights")
"""Keys under which a user is free to choose names."""
TYPES = {
    "array": list, "boolean": bool, "integer": int, "null": type(None), "number": (int, float), "object": dict,
    "string": str,
}  # fmt: skip


def is_of(value: Any, kind: str) -> bool:
    """As the specification says: true is no number, and 4.0 is an integer."""
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind]) or (kind == "integer" and isinstance(value, float) and value.is_integer())


def accepts(schema: Mapping[str, Any], value: Any, definitions: Mapping[str, Any]) -> bool:
    """Whether a draft-7 schema accepts a value."""

    def fits(inner: Mapping[str, Any], part: Any = value) -> bool:
        return accepts(inner, part, definitions)

    def check(word: str, said: Any) -> bool:
        match word:
            case "$ref":
                return fits(definitions[said.removeprefix("#/definitions/")])
            case "type":
                return is_of(value, said)
            case "enum":
                return any(value == each and type(value) is type(each) for each in said)
            case "pattern":
                return not isinstance(value, str) or re.search(said, value) is not None
            case "anyOf":
                return any(map(fits, said))
            case "allOf":
                return all(map(fits, said))
            case "if":
                return not fits(said) or fits(schema["then"])
            case "required":
                return not isinstance(value, dict) or set(said) <= value.keys()
            case "properties":
                return not isinstance(value, dict) or all(fits(said[key], value[key]) for key in said.keys() & value)
            case "additionalProperties":
                others = value.keys() - schema["properties"] if isinstance(value, dict) else ()
                return not others if said is False else all(fits(said, value[key]) for key in others)
            case "items":
                return not isinstance(value, list) or all(fits(said, each) for each in value)
        return {"$schema", "default", "definitions", "description", "then"}.issuperset({word})

    return all(check(word, said) for word, said in schema.items())


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return recipe_schema()


@pytest.mark.parametrize(
    ("inner", "good", "bad"),
    [
        ({"type": "integer"}, [3, 4.0], [True, 0.5, "3"]),
        ({"anyOf": [{"enum": ["a", 1]}, {"$ref": "#/definitions/x"}]}, ["a", 1, None], [True, "b"]),
        ({"type": "string", "pattern": "b$"}, ["ab"], ["ba", 1]),
        ({"properties": {"a": {}}, "additionalProperties": False}, [{}, {"a": 1}], [{"b": 1}]),
        ({"properties": {}, "additionalProperties": {"type": "number"}}, [{"b": 1}], [{"b": "1"}]),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, [{}, {"a": 1, "b": 1}], [{"a": 1}]),
        ({"type": "array", "items": {"type": "boolean"}}, [[], [True]], [[1], True]),
        ({"unknown": 1}, [], [1]),
    ],
)
def test_the_validator_keeps_the_specification(inner: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    definitions = {"x": {"type": "null"}}
    assert [accepts(inner, value, definitions) for value in good + bad] == [True] * len(good) + [False] * len(bad)


def recipes() -> Iterator[tuple[str, Any]]:
    """Each recipe as it is written, and with its part files in their places."""
    slots = {name: slot_of(hint) for name, (hint, *_) in realbench_arguments().items()}
    root = ConfigSlot(arguments={**slots, **config_root(TrainableModule, LightningDataModule).arguments})
    for path in sorted(CONFIGS.glob("*.yaml")):
        yield path.name, yaml.safe_load(path.read_text())
        yield f"{path.name}, written out", expand(read_file(path), root).plain()


def test_every_recipe_and_overlay_is_accepted(schema: dict[str, Any]) -> None:
    found = dict(recipes())
    found |= {path.name: yaml.safe_load(path.read_text()) for path in (CONFIGS / "variants").glob("*.yaml")}
    assert len(found) >= 40
    assert [name for name, recipe in found.items() if not accepts(schema, recipe, schema["definitions"])] == []


def test_each_recipe_names_the_schema_in_its_first_line() -> None:
    found = [*CONFIGS.glob("*.yaml"), *(CONFIGS / "variants").glob("*.yaml")]
    first = "# yaml-language-server: $schema="
    place = CONFIGS.parent / "realgen.schema.json"
    named = {path: path.read_text().splitlines()[0].removeprefix(first) for path in found}
    assert [path.name for path in found if (path.parent / named[path]).resolve() != place] == []


def keys(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all keys but the names that users choose, and those of classes of their own."""
    if isinstance(value, dict) and not str(value.get("class_path")).startswith("experiments."):
        for key, child in value.items():
            if not (path and path[-1] in NAMES):
                yield (*path, key)
            yield from keys(child, (*path, key))


def test_every_misspelt_key_is_refused(schema: dict[str, Any]) -> None:
    found, passed, number = dict(recipes()), [], 0
    for name in ("diffusion.yaml, written out", "detector.yaml, written out", "realbench.yaml, written out"):
        for path in keys(found[name]):
            config = copy.deepcopy(found[name])
            inner = config
            for key in path[:-1]:
                inner = inner[key]
            inner[f"{path[-1]}{path[-1][-1]}"] = inner.pop(path[-1])
            number += 1
            passed += [f"{name}: {path}"] if accepts(schema, config, schema["definitions"]) else []
    assert number >= 150
    assert passed == []


def test_types_defaults_and_descriptions_come_from_the_code(schema: dict[str, Any]) -> None:
    arguments = schema["definitions"]["realgen.callbacks.report.Report.init_args"]["properties"]
    assert arguments["num_prompts"]["default"] == 48
    assert arguments["num_prompts"]["description"].startswith("Held-out prompts of which pictures are kept")
    wrong = {"callbacks": {"r": {"class_path": "realgen.callbacks.Report", "init_args": {"num_prompts": "many"}}}}
    assert not accepts(schema, wrong, schema["definitions"])
    wrong["callbacks"]["r"]["init_args"]["num_prompts"] = "${seed_everything}"
    assert accepts(schema, wrong, schema["definitions"])
    assert schema["properties"]["run_dir"]["description"].startswith("Folder of the run")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """All scalars and empty containers with their paths, so that a difference is told by its place."""
    if value and isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(child, f"{path}/{key}")
    else:
        yield path, repr(value)


def test_the_command_prints_it(schema: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed, made = json.loads(capsys.readouterr().out), json.loads(json.dumps(schema))
    assert sorted({*leaves(printed)} ^ {*leaves(made)}) == []
