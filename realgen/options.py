"""Options of the commands that read no config."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from realgen.checks import nearest, nearest_name


class OptionParser(argparse.ArgumentParser):
    """A parser whose errors are those of the other commands: one line, the nearest option, exit code 1."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise ValueError; of a word that is none of those allowed, with the nearest one."""
        word = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        near = nearest_name(word[1], re.findall(r"[\w.-]+", word[2])) if word else None
        hint = f"Did you mean {near}?" if near else f"See {self.prog} --help"
        raise ValueError(f"{message.removeprefix('argument ')}. {hint}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and name the nearest of an option that there is not, before one that is missing."""
        given = sys.argv[1:] if args is None else list(args)
        self.check_names(given)
        return super().parse_args(given, namespace)

    def check_names(self, argv: Sequence[str], *, only_near: bool = False) -> None:
        """Raise ValueError for unknown options; ``only_near`` passes those like no known one, for somebody else."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for argument in argv[: [*argv, "--"].index("--")]:
            name = argument.partition("=")[0]
            near = nearest_name(name, known)
            if name.startswith("--") and name not in known and (near or not only_near):
                raise ValueError(f"{self.prog} has no option {name}. {nearest(name, known)}".rstrip())
