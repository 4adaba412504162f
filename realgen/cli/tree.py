"""A config as a tree that remembers where each value was written, so that an error can say file and line.

The rules of merging, the same for files and for the command line; later wins:

- mappings merge key by key, so an overlay names only what it changes; ``--key={...}`` sets the key to just that;
- another ``class_path`` replaces a component with all its ``init_args``, and so does a part file or a bare class name;
- anything else is replaced; ``null`` in a dict of components drops one.

A mapping with the key ``part_file`` is the mapping of that file, changed by the other keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from realgen.cli.config_error import ConfigError, nearest

COMMAND_LINE = "command line"
PART_FILE = "part_file"
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True)
class Node:
    """One value of a config."""

    value: Any
    """A mapping ``{key: Node}``, a list of ``Node``, or a scalar."""
    origin: str = COMMAND_LINE
    """``file:line``, or the command line."""
    folder: Path = Path()
    """Where the part files that this value names are looked for."""
    replaces: bool = False
    """Whether it takes the place of a mapping, where it would else be merged into it."""

    @property
    def is_mapping(self) -> bool:
        """Return whether this is a mapping."""
        return isinstance(self.value, dict)

    @property
    def is_interpolation(self) -> bool:
        """Return whether the value is computed from others, ``${...}``, after all files and arguments are merged."""
        return isinstance(self.value, str) and "${" in self.value

    def child(self, key: str) -> Node | None:
        """Return the value under ``key``; ``None`` if there is none."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def plain(self) -> Any:
        """Return the value as dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


def merge(base: Node, over: Node) -> Node:
    """Return ``base`` changed by ``over``, by the rules above.

    Example:
        >>> base = parse_text("{class_path: A, init_args: {x: 1, y: 2}}")
        >>> merge(base, parse_text("{init_args: {y: 3}}")).plain()
        {'class_path': 'A', 'init_args': {'x': 1, 'y': 3}}
        >>> merge(base, parse_text("{class_path: B}")).plain()
        {'class_path': 'B'}
    """
    if over.replaces or not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    old, new = base.child("class_path"), over.child("class_path")
    if old is not None and new is not None and old.value != new.value:
        return over
    merged = dict(base.value)
    for key, child in over.value.items():
        merged[key] = merge(merged[key], child) if key in merged else child
    return Node(merged, over.origin, over.folder)


def read_file(path: Path) -> Node:
    """Read a YAML or JSON file.

    Args:
        path: The file.

    Returns:
        Its tree; a mapping at the top.

    Raises:
        ConfigError: If there is no such file, it is no valid YAML, holds a key twice, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        siblings = [str(other) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        hint = nearest(str(path), siblings) if path.parent.is_dir() else f"There is no folder {path.parent} either."
        raise ConfigError(f"cannot read {path}: {error.strerror}. {hint}".rstrip()) from error
    node = parse_text(text, name=str(path), folder=path.parent)
    if not node.is_mapping:
        raise ConfigError(f"{path}: expected a mapping (key: value), got {type(node.value).__name__}.")
    return node


def parse_text(text: str, *, name: str = "", folder: Path = Path()) -> Node:
    """Parse YAML text.

    Args:
        text: YAML or JSON.
        name: The file's name for messages; empty on the command line.
        folder: Where the part files that it names are looked for.

    Returns:
        Its tree.

    Raises:
        ConfigError: If the text is no valid YAML, or holds a key twice.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        return Node(None, name or COMMAND_LINE, folder) if root is None else _convert(loader, root, name, folder)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}" if name and mark else name or COMMAND_LINE
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name or COMMAND_LINE}: not valid YAML: {error}.") from error
    finally:
        loader.dispose()


def _convert(loader: yaml.SafeLoader, node: yaml.Node, name: str, folder: Path) -> Node:
    origin = f"{name}:{node.start_mark.line + 1}" if name else COMMAND_LINE
    if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
        raise ConfigError(f"{origin}: not valid YAML here: the tag {node.tag}.")
    if isinstance(node, yaml.SequenceNode):
        return Node([_convert(loader, child, name, folder) for child in node.value], origin, folder)
    if not isinstance(node, yaml.MappingNode):
        return Node(loader.construct_object(node), origin, folder)
    written = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = sorted({key for key in written if written.count(key) > 1})
    if twice:
        raise ConfigError(f"{origin}: the key {twice[0]} is written twice in this mapping.")
    loader.flatten_mapping(node)
    # A mapping begins on the line of its first key; each value has the line of its own key.
    children = {}
    for key, value in node.value:
        child = _convert(loader, value, name, folder)
        line = f"{name}:{key.start_mark.line + 1}" if name else COMMAND_LINE
        children[str(key.value)] = Node(child.value, line, folder)
    if PART_FILE in children:
        return merge(_read_part(children.pop(PART_FILE)), Node(children, origin, folder))
    return Node(children, origin, folder)


def _read_part(name: Node) -> Node:
    if not isinstance(name.value, str):
        raise ConfigError(f"{PART_FILE}: expected a file, got {name.plain()!r} ({name.origin}).")
    try:
        return read_file(name.folder / name.value)
    except ConfigError as error:
        raise ConfigError(f"{PART_FILE}: {error} ({name.origin})") from error
