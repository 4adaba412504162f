"""The command line: its fix-ups, and its reading into a config tree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from realgen.cli.components import assign, expand
from realgen.cli.config_error import ConfigError
from realgen.cli.schema import Place
from realgen.cli.tree import Node, merge, parse_text, read_file

_CONFIG = ("-c", "--config")


def fix_arguments(argv: list[str]) -> None:
    """Rewrite arguments as a Weights & Biases agent prints them, in place.

    ``model.lr=0.1`` becomes ``--model.lr=0.1``, and ``--x=None`` becomes ``--x=null``. In place, because Lightning's
    launcher starts the other processes of this machine with ``sys.argv``.

    Args:
        argv: The arguments, without the program.

    Example:
        >>> argv = ["model.lr=0.1", "--data.workers=None"]
        >>> fix_arguments(argv)
        >>> argv
        ['--model.lr=0.1', '--data.workers=null']
    """
    for i, argument in enumerate(argv):
        if re.match(r"[A-Za-z_][\w.]*=", argument) and not (i > 0 and _awaits_value(argv[i - 1])):
            argument = f"--{argument}"
        argv[i] = re.sub(r"^(--[\w.]+)=None$", r"\1=null", argument)


def _awaits_value(argument: str) -> bool:
    return argument in _CONFIG or (argument.startswith("--") and "=" not in argument)


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether the arguments ask what there is: ``--help``, ``-h`` or ``--model.help``."""
    return any(re.fullmatch(r"-h|--(\w+\.)*help", argument.partition("=")[0]) for argument in argv)


def split_print_config(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Take ``--print_config[=skip_default]`` out of the arguments.

    Args:
        argv: The arguments.

    Returns:
        The others, and its value; ``None`` if it was not there.

    Example:
        >>> split_print_config(["-c", "a.yaml", "--print_config=skip_default"])
        (['-c', 'a.yaml'], 'skip_default')
    """
    asked = [argument for argument in argv if argument.partition("=")[0] == "--print_config"]
    others = [argument for argument in argv if argument not in asked]
    return others, asked[-1].partition("=")[2] if asked else None


def first_config(argv: Sequence[str]) -> str:
    """Name of the recipe: the stem of the first config file; ``run`` where there is none.

    Example:
        >>> first_config(["--config", "configs/diffusion.yaml", "--config", "mine.yaml"])
        'diffusion'
    """
    files = [value for key, value in pairs(split_print_config(argv)[0]) if key == "config" and "{" not in value]
    return Path(files[0]).stem if files else "run"


def pairs(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options and their values, in order.

    Args:
        argv: ``--key=value`` or ``--key value``, and ``-c``/``--config``.

    Yields:
        Key without hyphens, and value.

    Raises:
        ConfigError: If an argument is no option, or an option has no value.

    Example:
        >>> list(pairs(["-c", "a.yaml", "--model.lr=0.1"]))
        [('config', 'a.yaml'), ('model.lr', '0.1')]
    """
    arguments = iter(argv)
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option != "-c" and not re.fullmatch(r"--\w[\w.]*\+?", option):
            raise ConfigError(f"unrecognized argument {argument!r}. Arguments look like --key=value or --config FILE.")
        key = "config" if option == "-c" else option[2:]
        if key.endswith("+"):
            raise ConfigError(f"--{key}= is not supported. Give the whole value: --{key[:-1]}=...")
        if not equals:
            value = next(arguments, "--")
            if value.startswith("--"):
                raise ConfigError(f"--{key} needs a value: --{key}=...")
        yield key, value


def read_arguments(argv: Sequence[str], root: Place) -> Node:
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
            overlay = parse_text(value) if value.lstrip().startswith("{") else read_file(Path(value))
            tree = expand(merge(tree, overlay), root)
        else:
            tree = assign(tree, key, value, root)
    return tree
