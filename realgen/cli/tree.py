"""A config as a tree that remembers where each value was written, so that an error can say file and line.

The rules of merging, the same for files and for the command line; later wins:

- mappings merge key by key, so an overlay names only what it changes; ``--key={...}`` sets the key to just that;
- another ``class_path`` replaces a component with all its ``init_args``, and so does a part file or a bare class name;
- anything else is replaced; ``null`` in a dict of components drops one.

A mapping with the key ``part_file`` is the mapping of that file, changed by the other keys.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from realgen.checks import nearest, nearest_name
from realgen.cli import ConfigError
from realgen.given_files import STARTED_IN, parse_json

COMMAND_LINE = "command line"
PART_FILE = "part_file"
PART_SUFFIXES = (".yaml", ".yml", ".json")
MAX_VALUES = 100_000
"""In one file, aliases written out; the recipes have some hundreds."""
MAX_DIGITS = 400
"""Of a number; no float has more."""
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MERGE = "tag:yaml.org,2002:merge"
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
    drops_none_of: tuple[str, ...] | None = None
    """Of a null that was to drop a value and found none: the names that were there."""

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


def origins(node: Node, key: str = "") -> Iterator[str]:
    """Yield ``key: file:line``, or the command line, of each value that stands somewhere."""
    if not (node.value and isinstance(node.value, dict | list)):
        yield f"{key}: {node.origin}"
        return
    for name, child in node.value.items() if isinstance(node.value, dict) else enumerate(node.value):
        yield from origins(child, f"{key}.{name}" if key else str(name))


def merge(base: Node, over: Node) -> Node:
    """Return ``base`` changed by ``over``, by the rules above."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    old, new = base.child("class_path"), over.child("class_path")
    if old is not None and new is not None and old.value != new.value:
        return over
    merged = {} if over.replaces else dict(base.value)
    for key, child in over.value.items():
        if key in merged:
            merged[key] = merge(merged[key], child)
        elif child.value is None and base.value and key not in base.value:
            merged[key] = replace(child, drops_none_of=tuple(base.value))
        else:  # in the first of all files a null is written out, and drops nothing
            merged[key] = child
    return Node(merged, over.origin, over.folder)


def read_file(path: Path, *, inside: tuple[Path, ...] = ()) -> Node:
    """Read a YAML or JSON file with a mapping at the top; ``inside`` are the files whose ``part_file`` led here."""
    if path.resolve() in inside:
        raise ConfigError(f"{path} names itself.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: the byte 0x{error.object[error.start]:02x}.") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}. {near_file(path)}".rstrip()) from error
    node = parse_text(text, name=str(path), folder=path.parent, inside=(*inside, path.resolve()))
    if not node.is_mapping:
        got = "nothing" if node.value is None else type(node.value).__name__
        raise ConfigError(f"{path}: expected a mapping (key: value), got {got}.")
    return node


def find_paths(node: Node) -> Node:
    """Return a tree in which paths that files name are found from any folder.

    A relative one, or a pattern of several, is looked for in the folder of its file, then in the two folders above
    (part files lie in folders of their own), then in the current one, then in the one in which a recorded config says
    that its run was started. Where the current one gives the same, or none has it, it stays as it is written.
    """
    if isinstance(node.value, dict):
        return replace(node, value={key: find_paths(child) for key, child in node.value.items()})
    if isinstance(node.value, list):
        return replace(node, value=[find_paths(child) for child in node.value])
    text = node.value
    if not isinstance(text, str) or "/" not in text or "${" in text or node.origin == COMMAND_LINE:
        return node
    fixed = re.split(r"[^/]*[*?\[{]", text, maxsplit=1)[0]  # of a pattern, the folder before it
    if not fixed:  # a text with braces or a question, or a pattern that begins in the current folder
        return node
    folder = Path(os.path.abspath(node.folder))  # parents of a path with .. are others
    places = [folder, *folder.parents[:2], *([Path()] if os.path.exists(fixed) else _started_in(node.origin))]
    for place in places:
        if os.path.exists(place / fixed):
            same = os.path.exists(fixed) and os.path.samefile(place / fixed, fixed)
            return node if same else replace(node, value=str(place / text))
    return node


def _started_in(origin: str) -> list[Path]:
    """Return the folder that the second line of a recorded config names."""
    file = Path(origin.rpartition(":")[0])
    lines = file.read_text(encoding="utf-8").split("\n", 2) if file.is_file() else []  # a FIFO is read once only
    found = re.fullmatch(rf'{STARTED_IN}(".*")', lines[1]) if len(lines) > 1 else None
    return [Path(parse_json(found[1]))] if found else []


def near_file(path: Path) -> str:
    """Return the sentence that suggests the config file that a misspelt path stands for; empty if none is near."""
    found = Path(path.anchor)
    if path.is_dir():
        return nearest("", [file.name for end in PART_SUFFIXES for file in path.glob(f"*{end}")], prefix=f"{path}/")
    for part in path.parts[len(found.parts) :]:
        if part == ".." or (found / part).is_dir():
            found /= part
            continue
        if part != path.name:
            near = nearest_name(part, [folder.name for folder in found.glob("*/")])
            if near is None:
                return f"There is no folder {path.parent} either."
            found /= near
            continue
        files = {file.stem: file.name for file in found.glob("[!.]*") if file.suffix in PART_SUFFIXES}
        near = nearest_name(path.stem, files)
        if near is None:
            folders = (found.parent, Path("configs"))
            elsewhere = next((other for folder in folders for other in folder.glob(f"*/{path.name}")), None)
            listed = nearest("", files.values(), prefix=f"{found}/" if found.parts else "")
            return listed if elsewhere is None else f"Did you mean {elsewhere}?"
        found /= files[near]
    return f"Did you mean {found}?"


def parse_text(text: str, *, name: str = "", folder: Path = Path(), inside: tuple[Path, ...] = ()) -> Node:
    """Parse YAML or JSON of the file ``name``, empty on the command line; part files are looked for in ``folder``."""
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return Node(None, name or COMMAND_LINE, folder)
        return _Conversion(loader, name, folder, inside).convert(root)
    except RecursionError:
        raise ConfigError(f"{name or COMMAND_LINE}: values are nested too deep.") from None
    except yaml.reader.ReaderError as error:
        line = f":{text[: error.position].count(chr(10)) + 1}" if name else ""
        raise ConfigError(f"{name or COMMAND_LINE}{line}: not valid YAML: a control character.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}" if name and mark else name or COMMAND_LINE
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name or COMMAND_LINE}: not valid YAML: {error}.") from error
    finally:
        if loader is not None:
            loader.dispose()


class _Conversion:
    """Turns the nodes of one text into a tree, each alias into a copy of its value; hostile ones are refused."""

    def __init__(self, loader: yaml.SafeLoader, name: str, folder: Path, inside: tuple[Path, ...]) -> None:
        self._loader = loader
        self._name = name
        self._folder = folder
        self._inside = inside
        self._number = 0
        self._around: list[yaml.Node] = []

    def convert(self, node: yaml.Node) -> Node:
        """Return the tree of a node."""
        origin = self._origin(node)
        self._number += 1
        if self._number > MAX_VALUES:
            raise ConfigError(f"{origin}: more than {MAX_VALUES:,} values; aliases multiply them.")
        if node in self._around:
            raise ConfigError(f"{origin}: an alias stands inside its own value.")
        if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
            raise ConfigError(f"{origin}: not valid YAML here: the tag {node.tag}.")
        if not isinstance(node, yaml.CollectionNode):
            return Node(self._scalar(node, origin), origin, self._folder)
        self._around.append(node)
        if isinstance(node, yaml.MappingNode):
            converted = self._mapping(node, origin)
        else:
            converted = Node([self.convert(child) for child in node.value], origin, self._folder)
        self._around.pop()
        return converted

    def _origin(self, node: yaml.Node) -> str:
        return f"{self._name}:{node.start_mark.line + 1}" if self._name else COMMAND_LINE

    def _scalar(self, node: yaml.Node, origin: str) -> Any:
        if len(node.value) > MAX_DIGITS and node.tag in _NUMBER_TAGS:  # PyYAML takes minutes for a sum of sixtieths
            raise ConfigError(f"{origin}: {node.value[:40]!r} is too large; a number has at most {MAX_DIGITS} digits.")
        try:
            value = self._loader.construct_object(node)
        except (ValueError, ArithmeticError, LookupError, AttributeError) as error:  # PyYAML's, on a value and its tag
            raise ConfigError(
                f"{origin}: {node.value[:40]!r} cannot be read as {node.tag.rpartition(':')[2]}."
            ) from error
        if isinstance(value, int) and abs(value) >= 2**64:
            raise ConfigError(f"{origin}: {node.value[:40]!r} is too large; whole numbers have at most 64 bits.")
        return value

    def _mapping(self, node: yaml.MappingNode, origin: str) -> Node:
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{self._origin(key)}: a key must be text.")
        written = Counter(key.value for key, _ in node.value if key.tag != _MERGE)
        twice = sorted(key for key, number in written.items() if number > 1)
        if twice:
            raise ConfigError(f"{origin}: the key {twice[0]} is written twice in this mapping.")
        if _merged_size(node, {}) > MAX_VALUES:
            raise ConfigError(f"{origin}: more than {MAX_VALUES:,} values; aliases multiply them.")
        self._loader.flatten_mapping(node)
        # A mapping begins on the line of its first key; each value has the line of its own key.
        children = {str(key.value): replace(self.convert(value), origin=self._origin(key)) for key, value in node.value}
        if (name := children.pop(PART_FILE, None)) is None:
            return Node(children, origin, self._folder)
        if not isinstance(name.value, str):
            raise ConfigError(f"{PART_FILE}: expected a file, got {name.plain()!r} ({name.origin}).")
        try:
            part = read_file(name.folder / name.value, inside=self._inside)
        except ConfigError as error:
            raise ConfigError(f"{PART_FILE}: {error} ({name.origin})") from error
        return merge(part, Node(children, origin, self._folder))


def _merged_size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many entries a mapping has with those that ``<<`` brings; RecursionError if it brings itself."""
    if id(node) not in known:
        size = len(node.value) if isinstance(node, yaml.MappingNode) else 0
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == _MERGE:
                size += sum(
                    _merged_size(each, known) for each in getattr(value, "value", ()) if isinstance(each, yaml.Node)
                )
                size += _merged_size(value, known)
        known[id(node)] = size
    return known[id(node)]
