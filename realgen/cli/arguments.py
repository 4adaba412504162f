"""The command line as text: its corrections, its options and values, and the config files that it names."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from realgen.checks import first_line, nearest_name
from realgen.cli import ConfigError
from realgen.cli.tree import Node, parse_text, read_file

if TYPE_CHECKING:
    import torch

_CONFIG = ("-c", "--config")
_FLAGS = ("print_config", "help", "dry-run")


def take_arguments(argv: Sequence[str] | None) -> list[str]:
    """Return a command's arguments, corrected; this process's own (None) in place, for processes that it starts."""
    arguments = fix_arguments(sys.argv[1:] if argv is None else argv)
    if argv is None:
        sys.argv[1:] = arguments
    return arguments


def print_usage(arguments: Sequence[str], usage: str) -> int | None:
    """Print the usage where there is no argument, or ``--help`` alone, and return the exit code; else None."""
    if arguments and list(arguments) not in (["-h"], ["--help"]):
        return None
    more = "\n--help all shows every argument; behind a recipe, those of its parts too.\n" if arguments else ""
    (sys.stdout if arguments else sys.stderr).write(f"usage: {usage}{more}")
    return 0 if arguments else 1


def fix_arguments(argv: Sequence[str]) -> list[str]:
    """Rewrite what a W&B agent writes: ``model.lr=0.1`` as ``--model.lr=0.1``, Python's None and 1e-05 as YAML."""
    fixed: list[str] = []
    for before, argument in zip(["", *argv], argv, strict=False):
        awaits_value = before in _CONFIG or (before.startswith("--") and "=" not in before)
        if re.match(r"[A-Za-z_][\w.]*=", argument) and not awaits_value:
            argument = f"--{argument}"
        option, equals, value = argument.partition("=")
        fixed.append(f"{option}={_in_yaml(value)}" if equals and option.startswith("--") else argument)
    return fixed


def _in_yaml(value: str) -> str:
    """Write None, and a dict or list of Python that holds None or a number such as 1e-05, as YAML; others as given."""
    if value == "None":
        return "null"
    if value.startswith(("{", "[")) and re.search(r"\bNone\b|\de-?\d", value):
        with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # YAML that is no Python
            literal = ast.literal_eval(value)
            if isinstance(literal, dict | list):
                dumped = yaml.safe_dump(
                    literal, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9
                )
                return dumped.rstrip("\n")
    return value


def asks_for_help(argv: Sequence[str]) -> bool:
    """Return whether the arguments ask for help: ``--help``, ``-h`` or ``--model.help``."""
    return any(re.fullmatch(r"-h|--(\w+\.)*help", argument.partition("=")[0]) for argument in argv)


def split_print_config(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Take ``--print_config[=skip_default]`` out of the arguments; return the others, and its value or None."""
    requested = [argument for argument in argv if argument.partition("=")[0] == "--print_config"]
    others = [argument for argument in argv if argument not in requested]
    return others, requested[-1].partition("=")[2] if requested else None


def first_config(argv: Sequence[str]) -> str:
    """Return the name of the recipe: the stem of the first config file; ``run`` where there is none."""
    files = [value for key, value in pairs(split_print_config(argv)[0]) if key == "config" and "{" not in value]
    return Path(files[0]).stem if files else "run"


def pairs(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield options, without hyphens, and values of ``--key=value``, ``--key value``, ``-c FILE``; else ConfigError."""
    arguments = iter(argv)
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option != "-c" and not re.fullmatch(r"--\w[\w.-]*\+?", option):
            raise ConfigError(f"unrecognized argument {argument!r}. Arguments look like --key=value or --config FILE.")
        key = "config" if option == "-c" else option[2:]
        if key.endswith("+"):
            raise ConfigError(f"--{key}= is not supported. Give the whole value: --{key[:-1]}=...")
        if not equals:
            value = next(arguments, "--")
            if value.startswith("--"):
                near = None if key == "config" else nearest_name(key, _FLAGS)
                hint = f"--{key}=..." if near is None else f"--{key}=... Did you mean --{near}?"
                raise ConfigError(f"--{key} needs a value: {hint}")
        yield key, value


def without_options(argv: Sequence[str], *keys: str) -> list[str]:
    """Return the arguments without ``--key=value`` and ``--key value`` of some keys."""
    dropped = {f"--{key}" for key in keys}
    values = {place + 1 for place, argument in enumerate(argv) if argument in dropped}
    return [
        argument
        for place, argument in enumerate(argv)
        if place not in values and argument.partition("=")[0] not in dropped
    ]


def check_files(argv: Sequence[str]) -> None:
    """Find config and part files that do not exist or are no valid YAML, before the user has to wait for torch."""
    for key, value in pairs(split_print_config(argv)[0]) if not asks_for_help(argv) else ():
        if key == "config":
            read_config_value(value)
        elif value.endswith((".yaml", ".yml")) and "{" not in value:
            try:
                read_file(Path(value))
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from error


def read_config_value(value: str) -> Node:
    """Read what ``--config`` is given: a file, or a mapping in braces; raise ConfigError if it cannot be read."""
    return parse_text(value) if value.lstrip().startswith("{") else read_file(Path(value))


def usable_device(name: str) -> torch.device:
    """Return a device as torch calls it, for ``auto`` a GPU if there is one; ValueError if it cannot compute."""
    import torch

    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} cannot be used: {first_line(error)}") from error
    return device
