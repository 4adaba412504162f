"""The one reader of configs: files and arguments in; a complete, checked config out, and the objects that it names."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings
from omegaconf.errors import OmegaConfBaseException

from realgen.cli.arguments import asks_for_help, pairs, read_config_value, split_print_config
from realgen.cli.component_keys import instantiate
from realgen.cli.components import assign, expand
from realgen.cli.config_error import ConfigError
from realgen.cli.diagnosis import condense, problems
from realgen.cli.schema import ConfigSlot, slot_of
from realgen.cli.tree import Node, merge

PARSER_SETTINGS: dict[str, Any] = {
    "parser_mode": "omegaconf+",
    "allow_abbrev": False,
    "exit_on_error": False,
    "description": "",
}
"""How jsonargparse works here. ``omegaconf+``, because ``omegaconf`` resolves interpolations before the overrides."""


class Argument(NamedTuple):
    """What may stand under one key at the top of a config."""

    hint: Any
    """Its type; a base class lets a component stand there."""
    default: Any
    """Its value where it is not given."""
    text: str
    """What ``--help`` says."""


class ConfigReader:
    """Reads the configs of a command that runs no trainer, and makes what they name.

    Args:
        arguments: By key.
        usage: What ``--help`` says first.
        owner: What is named as the owner of the keys at the top.
    """

    def __init__(self, arguments: Mapping[str, Argument], usage: str, owner: str = "config") -> None:
        self.root = ConfigSlot(arguments={name: slot_of(each.hint) for name, each in arguments.items()}, owner=owner)
        self._arguments = arguments
        self._usage = usage

    def read(self, argv: Sequence[str], change: Callable[[Node], Node] = lambda tree: tree) -> dict[str, Any]:
        """Read files and arguments into a complete config.

        Args:
            argv: Arguments without the program, fixed up.
            change: Applied to what files and arguments say, before it is checked and completed.

        Returns:
            The config as plain values, defaults filled in.

        Raises:
            ConfigError: If the config or an argument is wrong.
            SystemExit: After ``--help`` and ``--print_config``.
        """
        document_fields(argv)
        parser = self._parser()
        return yaml.safe_load(parser.dump(read_config(parser, argv, self.root, change), skip_unset=False))

    def make(self, config: Mapping[str, Any]) -> Namespace:
        """Make the components of a config.

        Args:
            config: What ``read`` gave.

        Returns:
            The config with objects in the place of components.

        Raises:
            ConfigError: If a constructor refuses its arguments.
        """
        parser = self._parser()
        return instantiate(parser, parser.parse_object(copy.deepcopy(dict(config))))  # it changes what it is given

    def _parser(self) -> ArgumentParser:
        parser = ArgumentParser(usage=self._usage, **PARSER_SETTINGS)
        parser.add_argument("-c", "--config", action="config", help="A config file; may be given several times.")
        for name, argument in self._arguments.items():
            parser.add_argument(f"--{name}", type=argument.hint, default=argument.default, help=argument.text)
        return parser


def read_config(
    parser: ArgumentParser,
    argv: Sequence[str],
    root: ConfigSlot,
    change: Callable[[Node], Node] = lambda tree: tree,
) -> Namespace:
    """Merge config files and arguments, and let jsonargparse check and complete them.

    Args:
        parser: Knows types and defaults, and writes ``--help``.
        argv: The arguments, fixed up.
        root: What may stand at the top.
        change: Applied to the merged tree.

    Returns:
        The complete config.

    Raises:
        ConfigError: If a key, a class or a value is wrong, or a file cannot be read.
        SystemExit: After ``--help`` and ``--print_config``.
    """
    if asks_for_help(argv):
        _print_help(parser, argv, root)
    given, printing = split_print_config(argv)
    tree = change(read_arguments(given, root))
    for problem in problems(tree, root, values=False):
        raise ConfigError(problem)
    try:
        config = parser.parse_object(tree.plain())
    except OmegaConfBaseException as error:
        raise ConfigError(_interpolation_problem(error, tree)) from error
    except ArgumentError as error:
        raise ConfigError(next(problems(tree, root), condense(str(error)))) from error
    if printing is not None:
        skip = "skip_default" in printing
        sys.stdout.write(parser.dump(config, skip_default=skip, skip_unset=skip))
        raise SystemExit(0)
    return config


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
    """Merge config files and arguments into one tree, in the order in which they stand; later wins.

    Args:
        argv: The arguments, fixed up.
        root: What may stand at the top.

    Returns:
        The tree, part files expanded.

    Raises:
        ConfigError: If an argument or a file cannot be read.
    """
    tree = Node({})
    for key, value in pairs(argv):
        if key == "config":
            tree = expand(merge(tree, read_config_value(value)), root)
        else:
            tree = assign(tree, key, value, root)
    return tree


def _interpolation_problem(error: OmegaConfBaseException, tree: Node) -> str:
    node: Node | None = tree
    for part in (error.full_key or "").split("."):
        node = node and node.child(part)
    key = (error.full_key or "").replace(".init_args.", ".")
    origin = f" ({node.origin})" if node is not None else ""
    return f"{key}: {str(error).splitlines()[0]}{origin}. Interpolations write init_args out: ${{model.init_args.x}}"
