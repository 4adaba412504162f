"""Writes a JSON schema of recipes, for editors: ``python -m realgen.schema > realgen.schema.json``."""

import json
import sys
from collections.abc import Sequence

from realgen.cli.error_frame import run_command
from realgen.options import OptionParser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""

    def command() -> int:
        OptionParser(prog="python -m realgen.schema", description=__doc__).parse_args(argv)
        from realgen.cli.json_schema import recipe_schema  # here, so that --help does not wait for torch

        print(json.dumps(recipe_schema(), indent=1))
        return 0

    return run_command(command, doing="reading signatures")


if __name__ == "__main__":
    sys.exit(main())
