"""The command ``realgen``: ``realgen fit ARGUMENTS`` runs ``python -m realgen.fit ARGUMENTS``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from realgen import __version__
from realgen.checks import nearest

COMMANDS = {
    "fit": "train a policy or a detector",
    "plan": "tell what a recipe takes: GPUs, memory, seconds",
    "generate": "draw images of prompts",
    "realbench": "measure how real images look",
    "compare": "compare runs",
    "export": "write a run's adapters for other tools",
    "weights": "list the weights that a recipe needs, and which are missing",
    "init": "write recipes and embedded models into a folder of yours",
    "schema": "print a JSON schema of recipes for editors",
    "serve": "serve a reward over HTTP",
    "probe": "fit a linear probe as a detector",
    "data.make_shards": "turn your prompts into shards",
}
"""Modules of the package that are commands, and what each does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, in place of this process; return 1 if there is none."""
    # Not by a call: Lightning starts the other ranks with the command line of the first.
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    modules = {module.rpartition(".")[2]: module for module in COMMANDS}
    if name in modules:
        os.execv(sys.executable, [sys.executable, "-m", f"realgen.{modules[name]}", *arguments])
    if name in ("-V", "--version"):
        sys.stdout.write(f"realgen {__version__}\n")
    elif name in ("-h", "--help"):
        lines = (f"  {name:<12} {COMMANDS[module]}\n" for name, module in modules.items())
        sys.stdout.write(f"usage: realgen COMMAND ...\n\n{''.join(lines)}\nrealgen COMMAND --help tells more.\n")
    else:
        sys.stderr.write(f"error: there is no command {name!r}. {nearest(name, modules)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
