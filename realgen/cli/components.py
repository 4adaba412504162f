"""Components in a config tree: part files, bare class names, and the dotted keys of the command line."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from realgen.cli import ConfigError
from realgen.cli.classes import find_class
from realgen.cli.schema import ConfigSlot, parameters, slot_of
from realgen.cli.tree import PART_SUFFIXES, Node, merge, parse_text, read_file

MAX_DEPTH = 64
"""Levels of a config, beyond which part files name each other in a circle."""
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def arguments_at(node: Node | None, slot: ConfigSlot) -> Mapping[str, ConfigSlot]:
    """Return the arguments that a slot accepts: those of the group, or of the chosen class if it can be imported."""
    if slot.arguments is not None:
        return slot.arguments
    chosen = node.child("class_path") if node is not None else None
    if slot.base is None or chosen is None or not isinstance(chosen.value, str) or chosen.is_interpolation:
        return {}
    try:
        return parameters(find_class(chosen.value, slot.base), slot.num_given)
    except ConfigError:
        return {}


def children(node: Node, slot: ConfigSlot) -> Iterator[tuple[str, Node, ConfigSlot]]:
    """Yield the values directly inside a value: the suffix of the dotted key, the value, and its slot."""
    if slot.arguments is not None or (slot.base is not None and node.is_mapping):
        inner = node if slot.arguments is not None else node.child("init_args")
        arguments = arguments_at(node, slot)
        if inner is not None and inner.is_mapping:
            for name, child in inner.value.items():
                yield f".{name}", child, arguments.get(name, ConfigSlot())
    elif slot.items is not None and node.is_mapping:
        for name, child in node.value.items():
            yield f".{name}", child, slot_of(slot.items)
    elif slot.elements is not None and isinstance(node.value, list):
        for i, child in enumerate(node.value):
            yield f"[{i}]", child, slot_of(slot.elements)


def visit(node: Node, slot: ConfigSlot, key: str = "") -> Iterator[tuple[str, Node, ConfigSlot]]:
    """Yield every value of a config, outer ones first, with its dotted key (without ``init_args``) and its slot."""
    yield key, node, slot
    for suffix, child, inner in children(node, slot):
        yield from visit(child, inner, f"{key}{suffix}".removeprefix("."))


def expand(node: Node, slot: ConfigSlot, key: str = "") -> Node:
    """Replace the name of each part file by its content, and a bare class name X by ``{class_path: X}``.

    A part file may stand for every argument that takes a component, a mapping or a list. A whole number may be written
    as 4.0, as agents of Weights & Biases do. ConfigError if a part file cannot be read.
    """
    if slot.whole and re.fullmatch(r"-?\d{1,15}\.0", str(node.value)):
        return replace(node, value=int(float(node.value)))
    structured = slot.arguments is not None or slot.items is not None or slot.elements is not None
    if slot.base is not None or (structured and not slot.takes_text):
        node = _read_part(node, key)
    if slot.base is not None and _names_class(node, slot):
        return replace(node, value={"class_path": node})
    if slot.arguments is not None:
        node = _unwrap(node, slot.owner)
    inside = [expand(child, inner, f"{key}{suffix}".removeprefix(".")) for suffix, child, inner in children(node, slot)]
    if not inside:
        return node
    if isinstance(node.value, list):
        return replace(node, value=inside)
    if slot.base is not None:
        init_args = node.value["init_args"]
        filled = replace(init_args, value=dict(zip(init_args.value, inside, strict=True)))
        return replace(node, value={**node.value, "init_args": filled})
    return replace(node, value=dict(zip(node.value, inside, strict=True)))


def _unwrap(node: Node, owner: str) -> Node:
    """Write the arguments of a dataclass plainly; jsonargparse also allows them under ``init_args``."""
    chosen, init_args = node.child("class_path"), node.child("init_args")
    named = chosen is None or str(chosen.value).rpartition(".")[2] == owner
    if (chosen is None and init_args is None) or not named:
        return node
    others = {name: child for name, child in node.value.items() if name not in ("class_path", "init_args")}
    return merge(replace(node, value=others), Node({}) if init_args is None else init_args)


def _names_class(node: Node, slot: ConfigSlot) -> bool:
    if not isinstance(node.value, str) or not _IMPORT_PATH.fullmatch(node.value):
        return False
    if not isinstance(parse_text(node.value).value, str):
        return False  # true, false, null, which come from the command line as text
    # Where text may stand too (trainer.strategy: ddp), only a dotted name is a class.
    return "." in node.value or not slot.takes_text


def _read_part(node: Node, key: str) -> Node:
    if not isinstance(node.value, str) or node.is_interpolation or not node.value.endswith(PART_SUFFIXES):
        return node
    if key.count(".") > MAX_DEPTH:
        raise ConfigError(f"{key[:60]}...: more than {MAX_DEPTH} levels; {node.value} names itself ({node.origin}).")
    try:
        return read_file(node.folder / node.value)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error} ({node.origin})") from error


def assign(tree: Node, key: str, text: str, root: ConfigSlot) -> Node:
    """Set a dotted key of an expanded config as ``--key=text`` does, also without ``init_args``; return the tree."""
    return expand(merge(tree, _nest(key.split("."), text, tree, root, "")), root)


def _nest(parts: list[str], text: str, node: Node | None, slot: ConfigSlot, key: str) -> Node:
    """Return the overlay that sets ``parts`` below ``node`` to the value of ``text``."""
    if not parts and text.startswith(("{", "[")) and slot.hint is not str:
        return replace(parse_text(text), replaces=True)
    if not parts:  # scalars stay text: jsonargparse reads them by the argument's type
        return Node(None if text == "null" else text)
    head, *rest = parts
    if node is not None and isinstance(node.value, list):
        raise ConfigError(f"{key}: this is a list, whose elements have no keys. Give the whole list: --{key}='[...]'")
    if slot.base is None and node is not None and node.child("class_path") is not None:
        slot = ConfigSlot(base=object)
    if slot.base is not None and head != "class_path":
        group = ConfigSlot(arguments=arguments_at(node, slot))
        below = rest if head == "init_args" and rest else parts
        return Node({"init_args": _nest(below, text, node and node.child("init_args"), group, key)})
    inner = slot_of(slot.items) if slot.items is not None else (slot.arguments or {}).get(head, ConfigSlot())
    if not rest and text == "null" and (node is None or not node.value):
        return Node({head: Node(None, drops_none_of=())})
    return Node({head: _nest(rest, text, node and node.child(head), inner, f"{key}.{head}".removeprefix("."))})
