"""Configs of commands that run no trainer: the same files, keys and errors as ``realgen.fit``."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from omegaconf.errors import OmegaConfBaseException

from realgen.cli.arguments import asks_for_help, read_arguments, split_print_config
from realgen.cli.config_error import ConfigError
from realgen.cli.diagnosis import blame, condense, problems
from realgen.cli.schema import Place, place_of


class Argument(NamedTuple):
    """What may stand under one key at the top of a config."""

    hint: Any
    """Its type; a base class lets a component stand there."""
    default: Any
    """Where it is not given."""
    text: str
    """What ``--help`` says."""


class PlainConfig:
    """Reads a config and makes what it names.

    Args:
        arguments: By key.
        usage: What ``--help`` says first.
    """

    def __init__(self, arguments: Mapping[str, Argument], usage: str) -> None:
        self._arguments = arguments
        self._usage = usage

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """Read files and arguments into a complete config.

        Args:
            argv: Arguments without the program, fixed up.

        Returns:
            The config as plain values, defaults filled in.

        Raises:
            ConfigError: If the config or an argument is wrong.
            SystemExit: After ``--help`` and ``--print_config``.
        """
        parser = self._parser()
        if asks_for_help(argv):
            parser.parse_args(list(argv))
        given, flags = split_print_config(argv)
        root = Place(arguments={name: place_of(argument.hint) for name, argument in self._arguments.items()})
        tree = read_arguments(given, root)
        for problem in problems(tree, root, values=False):
            raise ConfigError(problem)
        try:
            config = parser.parse_object(tree.plain())
        except OmegaConfBaseException as error:
            raise ConfigError(str(error).splitlines()[0]) from error
        except ArgumentError as error:
            found = list(problems(tree, root))
            raise ConfigError(found[0] if found else condense(str(error))) from error
        if flags is not None:
            skip = "skip_default" in flags
            sys.stdout.write(parser.dump(config, skip_default=skip, skip_unset=skip))
            raise SystemExit(0)
        return yaml.safe_load(parser.dump(config, skip_unset=False))

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
        try:
            return parser.instantiate(parser.parse_object(copy.deepcopy(dict(config))))  # it changes what it is given
        except Exception as error:  # a constructor may raise anything
            raise ConfigError(self.blame(error, config)) from error

    def blame(self, error: Exception, config: Mapping[str, Any]) -> str:
        """What an error says, led by the dotted key of the component that raised it."""
        groups = {
            name: place.owner
            for name, argument in self._arguments.items()
            if (place := place_of(argument.hint)).arguments is not None
        }
        return blame(error, config, groups)

    def _parser(self) -> ArgumentParser:
        parser = ArgumentParser(
            parser_mode="omegaconf+", allow_abbrev=False, exit_on_error=False, usage=self._usage, description=""
        )
        parser.add_argument("-c", "--config", action="config", help="A config file; may be given several times.")
        for name, argument in self._arguments.items():
            parser.add_argument(f"--{name}", type=argument.hint, default=argument.default, help=argument.text)
        return parser
