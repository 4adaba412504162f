"""Find the shape of a model: in its own folder, in the hub's cache, or among the published numbers of this package."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from realgen.given_files import read_json
from realgen.hub_files import found_at

MODEL_INDEX = "model_index.json"


@dataclass(frozen=True)
class Component:
    """One part of a pipeline."""

    package: str
    """``diffusers`` or ``transformers``."""
    kind: str
    """Name of its class there."""
    config: Mapping[str, Any]
    """Content of its ``config.json``; what is missing has the class's defaults."""
    folder: Path | None = None
    """Where its files are; None if they are not on this machine."""


@dataclass(frozen=True)
class Architecture:
    """Everything of a pipeline but its weights."""

    pipeline: str
    """Name of its class in diffusers."""
    components: Mapping[str, Component]
    """By name, without those that the model does not have."""
    settings: Mapping[str, Any]
    """Other arguments of the pipeline's constructor; None for components that the model does not have."""
    source: str
    """Where this was read, for the reader of a plan."""


def find_architecture(pretrained: str) -> Architecture:
    """Look in the folder, then in the hub's cache of this machine, then among the published numbers; never online.

    Raises:
        ValueError: If the shape of this model is in none of them.
    """
    folder = found_at(pretrained)
    if folder is not None and (Path(pretrained).is_dir() or (folder / MODEL_INDEX).is_file()):
        return _read_folder(folder, pretrained)
    facts = published()
    if pretrained not in facts:
        near = difflib.get_close_matches(pretrained, facts, n=1, cutoff=0.0)
        raise ValueError(
            f"pretrained {pretrained!r} is no folder with {MODEL_INDEX}, is not in the hub's cache on this machine, "
            f"and its shape is not among the published ones: {', '.join(sorted(facts))}. "
            f"Nearest: {near[0]}. To plan without its weights, fetch its *.json files alone: "
            f"hf download {pretrained} --include '*.json'"
        )
    return facts[pretrained]


def _read_folder(folder: Path, pretrained: str) -> Architecture:
    """Read the configs of a pipeline's folder; raises ValueError if a file is missing or names no pipeline."""
    index = _read(folder / MODEL_INDEX)
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ValueError(f"pretrained: {str(folder / MODEL_INDEX)!r} must name a diffusers pipeline in _class_name.")
    pairs = {name: entry for name, entry in index.items() if isinstance(entry, list) and _names_a_class(entry)}
    named = {name: entry for name, entry in pairs.items() if entry[0]}
    components = {}
    for name, (package, kind) in named.items():
        place = folder / name
        tokenizes = not (place / "config.json").is_file() and name.startswith(("tokenizer", "feature", "processor"))
        file = place / ("scheduler_config.json" if name == "scheduler" else "config.json")
        components[name] = Component(package, kind, {} if tokenizes else _read(file), place)
    absent = {name: None for name in pairs if name not in named}
    plain = {name: value for name, value in index.items() if name[0] != "_" and name not in pairs}
    where = "its folder" if Path(pretrained).is_dir() else "the hub's cache on this machine"
    return Architecture(
        index["_class_name"], components, {**plain, **absent}, f"config.json of {pretrained}, from {where}"
    )


def _names_a_class(entry: list[Any]) -> bool:
    return len(entry) == 2 and all(part is None or isinstance(part, str) for part in entry)


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except ValueError as error:
        raise ValueError(f"pretrained must hold a diffusers pipeline: {error}") from error


def published() -> dict[str, Architecture]:
    """Read the architectures in this package's folder ``architectures``, by hub id."""
    found = {}
    for file in files("realgen.planning").joinpath("architectures").iterdir():
        if not file.name.endswith(".yaml"):
            continue
        facts = yaml.safe_load(file.read_text(encoding="utf-8"))
        components = {
            name: Component(package, kind, part.get("config") or {})
            for name, part in facts["components"].items()
            for package, _, kind in [part["class"].partition(".")]
        }
        source = f"published numbers in realgen/planning/architectures/{file.name}; {facts['source']}"
        for hub_id in facts["hub_ids"]:
            found[hub_id] = Architecture(facts["pipeline"], components, facts.get("settings") or {}, source)
    return found
