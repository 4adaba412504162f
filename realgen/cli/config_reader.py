"""The one reader of configs: files and arguments in; a complete, checked config out, and the objects that it names."""

import copy
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from realgen.checks import first_line, nearest_name
from realgen.cli import ConfigError
from realgen.cli.arguments import asks_for_help, pairs, read_config_value, split_print_config
from realgen.cli.component_keys import instantiate
from realgen.cli.components import assign, expand, visit
from realgen.cli.diagnosis import condense, nearest_path, problems
from realgen.cli.schema import ConfigSlot, slot_of
from realgen.cli.tree import Node, find_paths, merge
from realgen.masking import masked, watch_environment

PARSER_SETTINGS: dict[str, Any] = {
    "parser_mode": "omegaconf+",
    "allow_abbrev": False,
    "exit_on_error": False,
    "description": "",
}
"""How jsonargparse works here. ``omegaconf+``, because ``omegaconf`` resolves interpolations before the overrides."""


class ConfigReader:
    """Reads the configs of a command that runs no trainer, and makes what they name.

    The arguments stand by key at the top, whose owner is called ``owner`` in messages: type (a base class lets a
    component stand there), default, and what ``--help`` says of it. ``usage`` is what ``--help`` says first.
    """

    def __init__(self, arguments: Mapping[str, tuple[Any, Any, str]], usage: str, owner: str = "config") -> None:
        self.root = ConfigSlot(arguments={name: slot_of(hint) for name, (hint, *_) in arguments.items()}, owner=owner)
        self.written: dict[str, Any] = {}
        """The config that was read last, with its interpolations as they were written: for files and logs."""
        self._arguments = arguments
        self._usage = usage

    def read(self, argv: Sequence[str], change: Callable[[Node], Node] = lambda tree: tree) -> dict[str, Any]:
        """Read files and arguments into a complete config of plain values; ``change`` is applied before the check."""
        document_fields(argv)
        parser = self._parser()
        config, tree = read_config(parser, argv, self.root, change)
        resolved = yaml.safe_load(parser.dump(config, skip_unset=False))
        self.written = keep_interpolations(resolved, tree)
        return resolved

    def make(self, config: Mapping[str, Any]) -> Namespace:
        """Return the config that ``read`` gave, with objects in the place of components, or raise ConfigError."""
        parser = self._parser()
        return instantiate(parser, parser.parse_object(copy.deepcopy(dict(config))))  # it changes what it is given

    def _parser(self) -> ArgumentParser:
        parser = ArgumentParser(usage=self._usage, **PARSER_SETTINGS)
        parser.add_argument("-c", "--config", action="config", help="A config file; may be given several times.")
        for name, (hint, default, text) in self._arguments.items():
            parser.add_argument(f"--{name}", type=hint, default=default, help=text)
        return parser


def read_config(
    parser: ArgumentParser,
    argv: Sequence[str],
    root: ConfigSlot,
    change: Callable[[Node], Node] = lambda tree: tree,
    check: Callable[[Mapping[str, Any]], Iterable[str]] = lambda config: (),
) -> tuple[Namespace, Node]:
    """Merge config files and arguments, and let jsonargparse check and complete them.

    ``change`` is applied to the merged tree; ``check`` returns what is wrong with the complete config. What files and
    arguments say is returned behind the config, for ``keep_interpolations``.

    Raises:
        ConfigError: If a key, a class or a value is wrong, or a file cannot be read.
        SystemExit: After ``--help`` and ``--print_config``.
    """
    watch_environment()
    if asks_for_help(argv):
        _print_help(parser, argv, root)
    given, printing = split_print_config(argv)
    tree = change(find_paths(read_arguments(given, root)))
    for problem in problems(tree, root, values=False):
        raise ConfigError(problem)
    try:
        config = parser.parse_object(tree.plain())
    except OmegaConfBaseException as error:
        raise ConfigError(_interpolation_problem(error, tree, root)) from error
    except ArgumentError as error:
        raise ConfigError(next(problems(tree, root), condense(str(error)))) from error
    for problem in check(config.as_dict()):
        raise ConfigError(problem)
    if printing is not None:
        skip = "skip_default" in printing
        plain = yaml.safe_load(parser.dump(config, skip_default=skip, skip_unset=skip))
        sys.stdout.write(to_yaml(masked(keep_interpolations(plain, tree, "oc.env"))))
        raise SystemExit(0)
    return config, tree


def keep_interpolations(config: Any, tree: Node | None, containing: str = "${") -> Any:
    """Put interpolations back into a config, to follow its other values again and hold nothing of the environment.

    The tree is what files and arguments say at the same place, None where they say nothing; ``containing`` restricts it
    to interpolations with this text.
    """
    if tree is None:
        return config
    if tree.is_interpolation:
        return tree.value if containing in tree.value else config
    if isinstance(config, dict):
        return {key: keep_interpolations(value, tree.child(key), containing) for key, value in config.items()}
    if isinstance(config, list) and isinstance(tree.value, list) and len(config) == len(tree.value):
        return [keep_interpolations(value, child, containing) for value, child in zip(config, tree.value, strict=True)]
    return config


class _Dumper(yaml.SafeDumper):
    """Writes members of enums by name, such as a default of Lightning's ``Timer``, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_str(member.name))


def to_yaml(config: Any) -> str:
    """Write a config as YAML, keys in their order."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def document_fields(argv: Sequence[str]) -> None:
    """Let ``--help`` show the docstrings of dataclass fields; finding them takes seconds, so only where it is asked."""
    if asks_for_help(argv):
        set_parsing_settings(docstring_parse_attribute_docstrings=True)


def _print_help(parser: ArgumentParser, argv: Sequence[str], root: ConfigSlot) -> None:
    """Print the requested help; files and arguments before it, such as a recipe, decide which options there are."""
    place = next(place for place in range(len(argv)) if asks_for_help(argv[place : place + 1]))
    given = read_arguments(argv[:place], root).plain()
    try:
        parser.parse_args([*([f"--config={json.dumps(given)}"] if given else []), *argv[place:]])
    except ArgumentError as error:
        raise ConfigError(condense(str(error))) from error


def read_arguments(argv: Sequence[str], root: ConfigSlot) -> Node:
    """Merge config files and arguments in order into one expanded tree; a note tells what one takes back of another."""
    tree, recipe, before = Node({}), dict[str, str](), dict[str, str]()
    for key, value in pairs(argv):
        if key == "config":
            tree = expand(merge(tree, read_config_value(value)), root)
            after = _written(tree, root)
            recipe = recipe or after
            _note_replaced(before, after, recipe)
        else:
            tree = assign(tree, key, value, root)
            after = _written(tree, root)
        before = after
    return tree


def _written(tree: Node, root: ConfigSlot) -> dict[str, str]:
    """Return where each value was written, by key; of a component, where its class was."""
    chosen = {key: node.child("class_path") for key, node, _ in visit(tree, root)}
    plain = {key: node.origin for key, node, _ in visit(tree, root) if not isinstance(node.value, dict | list)}
    return plain | {key: node.origin for key, node in chosen.items() if node is not None}


def _note_replaced(before: Mapping[str, str], after: Mapping[str, str], recipe: Mapping[str, str]) -> None:
    """Tell which values an overlay takes from another overlay; those of the recipe are there to be replaced."""
    told: list[str] = []
    for key in sorted(before.keys() & after.keys()):
        changed = after[key] != before[key] != recipe.get(key)
        if changed and not any(key.startswith(f"{other}.") for other in told):
            told.append(key)
            sys.stderr.write(f"note: {key}: {after[key]} replaces what {before[key]} says.\n")


def _interpolation_problem(error: OmegaConfBaseException, tree: Node, root: ConfigSlot) -> str:
    node: Node | None = tree
    for part in (error.full_key or "").split("."):
        node = node and node.child(part)
    key = (error.full_key or "").replace(".init_args.", ".")
    origin = f" ({node.origin})" if node is not None else ""
    message = first_line(error).removeprefix("KeyError raised while resolving interpolation: ").strip('"')
    path, resolver = (re.search(rf"{start} '?([\w.]+)", message) for start in ("key", "Unsupported interpolation type"))
    near = None if path is None else nearest_path(path[1], tree, root)
    near = near if resolver is None else nearest_name(resolver[1], BaseContainer._resolvers)
    hint = "" if path is None else "Interpolations write init_args out: ${model.init_args.x}"
    return f"{key}: {message}{origin}. {f'Did you mean {near}?' if near else hint}".rstrip()
