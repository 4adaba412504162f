"""Finds what is wrong in a config that was refused, and says it in one line."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from realgen.checks import nearest, nearest_name, with_article
from realgen.cli import ConfigError
from realgen.cli.classes import KEYS, check_class, choices, find_class, new_class
from realgen.cli.components import arguments_at, visit
from realgen.cli.schema import ConfigSlot, describe, slot_of
from realgen.cli.tree import Node, near_file

_COMPONENT_KEYS = ("class_path", "init_args", "dict_kwargs")


def problems(tree: Node, root: ConfigSlot, *, values: bool = True) -> Iterator[str]:
    """Yield everything that is wrong with a config, outer values first, missing arguments last.

    Without ``values`` it looks at keys, classes and nulls alone, which is fast: jsonargparse lets some of these pass,
    such as an empty group of a wrong name, or null for a number. A line has the dotted key as the command line takes
    it, what was expected and what came, where it was written, and the nearest valid name.
    """
    missing: list[str] = []
    elsewhere = partial(_elsewhere, tree, root)
    for key, node, slot in visit(tree, root):
        if node.is_interpolation:
            continue
        if slot.items is not None and node.is_mapping:
            yield from _check_entries(key, node, slot_of(slot.items))
        if node.value is None:
            if not slot.takes_null:
                yield f"{key}: expected {describe(slot.hint)}, got null{_at(node)}."
        elif slot.arguments is not None:
            yield from _check_arguments(key, node, slot.arguments, slot.owner, elsewhere)
        elif slot.base is not None and (node.is_mapping or not (slot.takes_plain or slot.elements)):
            yield from _check_component(key, node, slot, elsewhere)
        elif (slot.items is not None and node.is_mapping) or (
            slot.elements is not None and isinstance(node.value, list)
        ):
            pass  # it consists of values that are visited on their own
        elif values and not _accepts(slot.hint, node.plain()):
            yield f"{key}: expected {describe(slot.hint)}, got {node.plain()!r}{_at(node)}.{_near_choice(slot, node)}"
        missing += _missing(key, node, slot)
    yield from missing


def _at(node: Node) -> str:
    return f" ({node.origin})"


def _elsewhere(tree: Node, root: ConfigSlot, name: str) -> str:
    """Return the sentence that suggests an argument of another part of the config; empty if none is near."""
    keys: dict[str, str] = {}
    for key, node, slot in visit(tree, root):
        for argument in arguments_at(node, slot):
            keys.setdefault(argument, f"{key}.{argument}".removeprefix("."))
    near = nearest_name(name, keys, surely=True)
    return f"Did you mean {keys[near]}?" if near else ""


def _check_arguments(
    key: str, node: Node, known: Mapping[str, ConfigSlot], owner: str, elsewhere: Callable[[str], str]
) -> Iterator[str]:
    """Yield the unknown keys among the arguments under ``node``."""
    if not node.is_mapping:
        yield f"{key}: expected a mapping of arguments, got {node.plain()!r}{_at(node)}."
        return
    for name, child in node.value.items():
        renamed = new_class(str(child.value)) if name == "class_path" else None  # of a dataclass
        if renamed is not None:
            yield f"{key}: {child.value} is now {renamed}.{_at(child)}"
        elif name not in known:
            full, new = f"{key}.{name}".removeprefix("."), KEYS.get(f"{owner}.{name}")
            names = known if key else [*known, "config", "print_config", "help"]
            hint = f"It is now called {new}." if new else ""
            hint = hint or (nearest_name(name, names) is None and elsewhere(name)) or nearest(name, names)
            yield f"{full}: {owner} has no such key{_at(child)}. {hint}".rstrip()


def _check_entries(key: str, node: Node, slot: ConfigSlot) -> Iterator[str]:
    """Yield the entries of a dict that change or drop one that is not there."""
    for name, child in node.value.items():
        if child.drops_none_of is not None:
            hint = nearest(name, child.drops_none_of)
            yield f"{key}.{name}: there is no such entry to drop{_at(child)}. {hint}".rstrip()
        elif slot.base is None or child.value is None:
            continue
        elif (
            not child.is_mapping or nearest_name("class_path", child.value) is None
        ):  # no class, not even a misspelt one
            others = [other for other, entry in node.value.items() if entry.child("class_path") is not None]
            if near := nearest_name(name, others):
                yield f"{key}.{name}: there is no such entry to change{_at(child)}. Did you mean {near}?"


def _check_component(key: str, node: Node, slot: ConfigSlot, elsewhere: Callable[[str], str]) -> Iterator[str]:
    """Yield what is wrong with the keys and the class of a component, and the unknown keys among its arguments."""
    assert slot.base is not None
    if not node.is_mapping:
        kind = f"{with_article(slot.base.__name__)} (class_path and init_args, or a part file)"
        near = near_file(node.folder / node.value) if isinstance(node.value, str) and "/" in node.value else ""
        yield f"{key}: expected {kind}, got {node.plain()!r}{_at(node)}. {near}".rstrip()
        return
    arguments = arguments_at(node, slot)
    for name, child in node.value.items():
        if name in arguments and name not in _COMPONENT_KEYS:
            yield f"{key}.{name}: must stand under init_args{_at(child)}."
        elif name not in _COMPONENT_KEYS:
            near = nearest(name, [*_COMPONENT_KEYS[:2], *arguments])
            yield f"{key}.{name}: a component has only class_path and init_args{_at(child)}. {near}".rstrip()
    chosen, init_args = node.child("class_path"), node.child("init_args")
    if chosen is None:
        if slot.default is None:
            kind, near = with_article(slot.base.__name__), choices(slot.base)
            yield f"{key}: class_path is missing; expected {kind}{_at(node)}. {near}".rstrip()
        return
    try:
        check_class(find_class(str(chosen.value), slot.base), slot.base)
    except ConfigError as error:
        yield f"{key}: {error}{_at(chosen)}"
        return
    if init_args is not None and init_args.value is not None:
        yield from _check_arguments(key, init_args, arguments, str(chosen.value).rpartition(".")[2], elsewhere)


def _missing(key: str, node: Node, slot: ConfigSlot) -> Iterator[str]:
    """Yield the arguments that have no default and were not given."""
    if key and node.value is None and slot.takes_null:
        return
    given: Any = node if slot.arguments is not None else node.child("init_args")
    for name, argument in arguments_at(node, slot).items():
        if argument.required and (given is None or given.child(name) is None):
            if key:
                owner = node.value["class_path"].value.rpartition(".")[2] if slot.base is not None else slot.owner
                yield f"{key}.{name}: missing; {owner} needs it ({describe(argument.hint)}){_at(node)}."
            else:
                yield f"{name}: missing. Give a recipe: --config configs/diffusion.yaml"


def nearest_path(path: str, tree: Node, root: ConfigSlot) -> str | None:
    """Return what the misspelt path of an interpolation (``trainer.max_epoch``) stands for; None if nothing is near."""
    node: Node | None = tree
    slot, found = root, list[str]()
    for head in path.split("."):
        component = slot.arguments is None and slot.base is not None
        entries = node.value if slot.items is not None and node is not None and node.is_mapping else {}
        known = {**arguments_at(node, slot), **dict.fromkeys(entries, slot_of(slot.items))}
        names = [*known, *(_COMPONENT_KEYS[:2] if component else ())]
        name = head if head in names else nearest_name(head, names)
        if name is None:
            return None
        inside = [name] if not component or name in _COMPONENT_KEYS else ["init_args", name]
        arguments = component and name == "init_args"
        slot = ConfigSlot(arguments=known) if arguments else known.get(name, ConfigSlot())
        for step in inside:
            node = node and node.child(step)
        found += inside
    return ".".join(found)


def _accepts(hint: Any, value: Any) -> bool:
    """Return whether jsonargparse accepts a plain value for a type."""
    if hint is Any:
        return True
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=hint)
        parser.parse_object({"value": value})
    except (ArgumentError, ValueError):
        return False
    return True


def _near_choice(slot: ConfigSlot, node: Node) -> str:
    choices = re.findall(r"'([^']+)'", describe(slot.hint))
    near = nearest_name(str(node.value), choices)
    return f" Did you mean {near}?" if near else ""


def condense(message: str) -> str:
    """Return only the cause from jsonargparse's nested message."""
    keys: list[str] = []
    causes: list[str] = []
    noise = ("Does not validate", "Subtypes", "Errors:", "Given value", "Problem with given", "Expected a <class 'None")
    for line in (line.strip().removeprefix("- ") for line in message.splitlines()):
        key = re.match(r'Parser key "([^"]+)":', line)
        keys += [key[1]] if key else []
        rest = line[key.end() :].strip() if key else line
        causes += [rest] if rest and not rest.startswith(noise) else []
    return f"{'.'.join(keys)}: {causes[0] if causes else message.splitlines()[0]}".removeprefix(": ")
