"""Writes the recipes and the embedded models into a folder of your own: ``python -m realgen.init FOLDER``."""

import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from realgen.cli.error_frame import run_command
from realgen.options import OptionParser

PARTS = ("configs", "data")
"""Folders of the repository: the recipes, and the embedded models with their prompts and images."""
_EPILOG = """\
first commands to try:
  python -m realgen.init mine
  cd mine && python -m realgen.fit --config configs/diffusion.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(partial(_init, argv, Path(__file__).resolve().parent), doing="writing recipes")


def _init(argv: Sequence[str] | None, package: Path) -> int:
    """Copy what lies in an installed package, or beside a checkout's; ValueError for none, or where it is there."""
    parser = OptionParser(
        prog="python -m realgen.init",
        description="Write the recipes and, where they are at hand, the embedded models and prompts into a folder.",
        epilog=_EPILOG,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="made if it is not there")
    folder: Path = parser.parse_args(argv).folder
    parts = {part: package.parent / part for part in PARTS if (package.parent / part).is_dir()}
    if (recipes := package / "recipes").is_dir():  # what lies beside an installed package belongs to others
        parts = {"configs": recipes}
    if "configs" not in parts:
        raise ValueError(f"{package} holds no recipes. Run it from a checkout of realgen.")
    if there := next((folder / part for part in parts if (folder / part).exists()), None):
        raise ValueError(f"{there} is there already; give another folder.")
    for part in parts:
        shutil.copytree(parts[part], folder / part)
    if "data" not in parts:
        print("an installed package holds no embedded models: their recipes need the folder data of a checkout")
    print(f"wrote {' and '.join(parts)} into {folder}; next: cd {folder} and a command of python -m realgen --help")
    return 0


if __name__ == "__main__":
    sys.exit(main())
