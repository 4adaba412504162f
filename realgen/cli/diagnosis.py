"""Finds what is wrong in a config that was refused, and says it in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from realgen.cli.classes import check_class, choices, find_class
from realgen.cli.components import arguments_at, visit
from realgen.cli.config_error import ConfigError, nearest
from realgen.cli.schema import Place, describe
from realgen.cli.tree import Node

_COMPONENT_KEYS = ("class_path", "init_args", "dict_kwargs")


def problems(tree: Node, root: Place, *, values: bool = True) -> Iterator[str]:
    """Everything that is wrong with a config, outer things first, missing arguments last.

    Args:
        tree: A whole config, part files expanded.
        root: What may stand at the top.
        values: Whether to look at plain values too. False looks at keys, classes and nulls, and is fast; jsonargparse
            lets some of these pass: an empty group of a wrong name, or null for a number.

    Yields:
        One line each: the dotted key as the command line takes it, what was expected and what came, where it was
        written, and the nearest valid name.
    """
    missing: list[str] = []
    for key, node, place in visit(tree, root):
        if node.is_interpolation:
            continue
        if node.value is None:
            yield from _null(key, node, place)
        elif place.arguments is not None:
            yield from _check_arguments(key, node, place.arguments, place.owner)
        elif place.base is not None and (node.is_mapping or not (place.takes_plain or place.elements)):
            yield from _check_component(key, node, place)
        elif values and not _holds_places(node, place) and not _accepts(place.hint, node.plain()):
            yield f"{key}: expected {describe(place.hint)}, got {node.plain()!r}{_at(node)}.{_near_choice(place, node)}"
        missing += _missing(key, node, place)
    yield from missing


def _null(key: str, node: Node, place: Place) -> Iterator[str]:
    if not place.takes_null:
        yield f"{key}: expected {describe(place.hint)}, got null{_at(node)}."


def _at(node: Node) -> str:
    return f" ({node.origin})"


def _holds_places(node: Node, place: Place) -> bool:
    """Whether the value consists of values that are visited on their own."""
    in_mapping = place.items is not None and node.is_mapping
    return in_mapping or (place.elements is not None and isinstance(node.value, list))


def _check_arguments(key: str, node: Node, known: Mapping[str, Place], owner: str) -> Iterator[str]:
    """Unknown keys among arguments, which stand under ``node``."""
    if not node.is_mapping:
        yield f"{key}: expected a mapping of arguments, got {node.plain()!r}{_at(node)}."
        return
    for name, child in node.value.items():
        if name not in known:
            full = f"{key}.{name}".removeprefix(".")
            yield f"{full}: {owner} has no such key{_at(child)}. {nearest(name, known)}".rstrip()


def _check_component(key: str, node: Node, place: Place) -> Iterator[str]:
    """Keys and class of a component, and unknown keys among its arguments."""
    assert place.base is not None
    if not node.is_mapping:
        kind = f"a {place.base.__name__} (class_path and init_args, or a part file)"
        yield f"{key}: expected {kind}, got {node.plain()!r}{_at(node)}."
        return
    arguments = arguments_at(node, place)
    for name, child in node.value.items():
        if name in arguments and name not in _COMPONENT_KEYS:
            yield f"{key}.{name}: must stand under init_args{_at(child)}."
        elif name not in _COMPONENT_KEYS:
            near = nearest(name, [*_COMPONENT_KEYS[:2], *arguments])
            yield f"{key}.{name}: a component has only class_path and init_args{_at(child)}. {near}".rstrip()
    chosen, init_args = node.child("class_path"), node.child("init_args")
    if chosen is None:
        if place.default is None:
            near = choices(place.base)
            yield f"{key}: class_path is missing; expected a {place.base.__name__}{_at(node)}. {near}".rstrip()
        return
    try:
        check_class(find_class(str(chosen.value), place.base), place.base)
    except ConfigError as error:
        yield f"{key}: {error}{_at(chosen)}"
        return
    if init_args is not None and init_args.value is not None:
        yield from _check_arguments(key, init_args, arguments, str(chosen.value).rpartition(".")[2])


def _missing(key: str, node: Node, place: Place) -> Iterator[str]:
    """Arguments that have no default and were not given."""
    given: Any = node if place.arguments is not None else node.child("init_args")
    for name, argument in arguments_at(node, place).items():
        if argument.required and (given is None or given.child(name) is None):
            if key:
                owner = node.value["class_path"].value.rpartition(".")[2] if place.base is not None else place.owner
                yield f"{key}.{name}: missing; {owner} needs it ({describe(argument.hint)}){_at(node)}."
            else:
                yield f"{name}: missing. Give a recipe: --config configs/diffusion.yaml"


def _accepts(hint: Any, value: Any) -> bool:
    """Whether jsonargparse takes a plain value for a type."""
    if hint is Any:
        return True
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=hint)
        parser.parse_object({"value": value})
    except (ArgumentError, ValueError):
        return False
    return True


def _near_choice(place: Place, node: Node) -> str:
    choices = re.findall(r"'([^']+)'", describe(place.hint))
    near = difflib.get_close_matches(str(node.value), choices, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def condense(message: str) -> str:
    r"""The cause alone out of jsonargparse's nested message.

    Example:
        >>> condense('Parser key "model":\n  Parser key "lr":\n    Expected a <class \'float\'>. Got value: abc')
        "model.lr: Expected a <class 'float'>. Got value: abc"
    """
    keys: list[str] = []
    causes: list[str] = []
    noise = ("Does not validate", "Subtypes", "Errors:", "Given value", "Problem with given", "Expected a <class 'None")
    for line in (line.strip().removeprefix("- ") for line in message.splitlines()):
        key = re.match(r'Parser key "([^"]+)":', line)
        keys += [key[1]] if key else []
        rest = line[key.end() :].strip() if key else line
        causes += [rest] if rest and not rest.startswith(noise) else []
    return f"{'.'.join(keys)}: {causes[0] if causes else message.splitlines()[0]}".removeprefix(": ")


def blame(error: Exception, config: Mapping[str, Any], groups: Mapping[str, str]) -> str:
    """What a component that refused its arguments said, led by the dotted key of the argument or the component.

    Args:
        error: What came out of a constructor or a method.
        config: The config that was instantiated.
        groups: Class names of what stands there without ``class_path``, by dotted key.

    Returns:
        One message; without a key if no component of the config raised it.
    """
    while isinstance(error.__cause__, Exception) and str(error).startswith("Does not validate"):
        error = error.__cause__
    message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    raisers = []
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if "self" in frame.f_locals:
            raiser = frame.f_locals["self"]
            given = frame.f_locals if frame.f_code.co_name == "__init__" else getattr(raiser, "__dict__", {})
            raisers.append((type(raiser).__name__, given))
        trace = trace.tb_next
    specs = list(_specs(config, "", groups))
    # First with nulls, which tell two components of a class apart; a constructor may have put a choice in their place.
    kinds = ((bool, int, float, str, type(None)), (bool, int, float, str))
    for (name, given), plain in product(reversed(raisers), kinds):
        for key, class_name, arguments in specs:
            if class_name == name and all(given.get(k, v) == v for k, v in arguments.items() if isinstance(v, plain)):
                first = re.match(r"\w*", message)
                joint = "." if first and first[0] in arguments else ": "
                return f"{key}{joint}{message}"
    return message


def _specs(value: Any, key: str, groups: Mapping[str, str]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Dotted key, class name and arguments of every component in a config."""
    if isinstance(value, list):
        for i, child in enumerate(value):
            yield from _specs(child, f"{key}[{i}]", groups)
    elif isinstance(value, dict):
        inner = value
        if isinstance(value.get("class_path"), str):
            inner = value.get("init_args") or {}
            yield key, value["class_path"].rpartition(".")[2], inner
        elif key in groups:
            yield key, groups[key], inner
        for name, child in inner.items():
            yield from _specs(child, f"{key}.{name}".removeprefix("."), groups)
