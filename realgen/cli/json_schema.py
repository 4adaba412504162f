"""What may stand in a recipe, as a JSON schema (draft 7) for editors, made from the signatures of the constructors."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any, Literal, get_args, get_origin

from lightning.pytorch import LightningDataModule

import realgen
from realgen.benchmark.realbench_config import realbench_arguments
from realgen.cli.classes import candidates
from realgen.cli.realgen_cli import ARGUMENTS, config_root
from realgen.cli.schema import ConfigSlot, options_of, parameters, slot_of
from realgen.cli.tree import PART_FILE
from realgen.modules.base import TrainableModule

_TEXT = {"type": "string"}
_STANDS_FOR_OTHERS = {"type": "string", "pattern": r"\$\{|\.(ya?ml|json)$"}
"""An interpolation, or the name of a part file."""
_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def recipe_schema() -> dict[str, Any]:
    """Return the schema of recipes and overlays of ``realgen.fit`` and ``realgen.realbench``.

    It refuses unknown keys of the classes of this package, and of those that PyTorch and Lightning offer beside a base
    class; arguments of other classes pass, and so do those beside no ``class_path``, as overlays have them. It does not
    say what is missing.
    """
    keys, writer = realbench_arguments() | ARGUMENTS, _Writer()
    slots = {name: replace(slot_of(hint), text=text) for name, (hint, _, text) in keys.items()}
    whole = writer.mapping({**(config_root(TrainableModule, LightningDataModule).arguments or {}), **slots})
    return {"$schema": "http://json-schema.org/draft-07/schema#", **whole, "definitions": writer.definitions}


class _Writer:
    """Writes the schemas of slots, and of each class once, to which the others refer."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def mapping(self, slots: Mapping[str, ConfigSlot]) -> dict[str, Any]:
        """Return the schema of a mapping with a key for each slot."""
        keys = {name: self._value(slot) for name, slot in slots.items()}
        for name, slot in slots.items():
            number = isinstance(slot.default, float) and isfinite(slot.default)
            default = {"default": slot.default} if number or isinstance(slot.default, bool | int | str) else {}
            keys[name] |= default | ({"description": slot.text} if slot.text else {})
        return {"type": "object", "properties": {PART_FILE: _TEXT, **keys}, "additionalProperties": False}

    def _value(self, slot: ConfigSlot) -> dict[str, Any]:
        options = list(options_of(slot.hint))
        slots = [slot] if len(options) == 1 else [slot_of(option) for option in options]
        kinds = [kind for option, each in zip(options, slots, strict=True) for kind in self._kinds(option, each)]
        return {} if {} in kinds else {"anyOf": [kind for i, kind in enumerate(kinds) if kind not in kinds[:i]]}

    def _kinds(self, hint: Any, slot: ConfigSlot) -> Iterator[dict[str, Any]]:
        """Yield what may stand where a hint says so that is no union; an empty schema for anything."""
        kind = get_origin(hint) or hint
        if slot.base is not None:
            yield self._component(slot.base, slot.num_given)
        elif slot.arguments is not None:
            yield self._arguments(hint)
        elif slot.items is not None:
            items = self._value(slot_of(slot.items))
            yield {"type": "object", "properties": {PART_FILE: _TEXT}, "additionalProperties": items}
        elif slot.elements is not None:
            yield {"type": "array", "items": self._value(slot_of(slot.elements))}
        elif kind is Literal:
            yield {"enum": list(get_args(hint))}
        else:
            names = (name for cls, name in _PLAIN.items() if inspect.isclass(kind) and issubclass(kind, cls))
            yield next(({"type": name} for name in names), {})
        yield _STANDS_FOR_OTHERS

    def _component(self, base: type, num_given: int) -> dict[str, Any]:
        name = f"{base.__module__}.{base.__qualname__}"
        if name not in self.definitions:
            self.definitions[name] = {}  # for one that holds others of its kind
            known: list[str] = []
            rules: list[dict[str, Any]] = [{}]
            for cls, paths in _classes(base).items():
                chosen = {"properties": {"class_path": {"enum": paths}}, "required": ["class_path"]}
                arguments = {"anyOf": [self._arguments(cls, num_given), {"type": "null"}]}
                rules.append({"if": chosen, "then": {"properties": {"init_args": arguments}}})
                known += paths
            path = {"anyOf": [{"enum": known or [""]}, _TEXT]}
            keys = {"class_path": path, "init_args": {}, "dict_kwargs": {}, PART_FILE: _TEXT}
            whole = {"type": "object", "properties": keys, "additionalProperties": False, "allOf": rules}
            self.definitions[name] = {"anyOf": [_TEXT, whole]}  # a part file, or a bare class name
        return {"$ref": f"#/definitions/{name}"}

    def _arguments(self, function: Any, num_given: int = 0) -> dict[str, Any]:
        name = f"{function.__module__}.{function.__qualname__}.init_args"
        if name not in self.definitions:
            self.definitions[name] = {}
            self.definitions[name] = self.mapping(parameters(function, num_given))
        return {"$ref": f"#/definitions/{name}"}


def _classes(base: type) -> dict[type, list[str]]:
    """Return the components of a kind that this package and the home of their base class offer, with their paths."""
    names = [each.name for each in pkgutil.walk_packages(realgen.__path__, "realgen.") if each.ispkg]
    found: dict[type, list[str]] = {}
    for module in map(importlib.import_module, filter(None, [*names, base.__module__.rpartition(".")[0]])):
        for name in candidates(module, base):
            found.setdefault(getattr(module, name), []).append(f"{module.__name__}.{name}")
    return {cls: sorted({*paths, f"{cls.__module__}.{cls.__qualname__}"}, key=len) for cls, paths in found.items()}
