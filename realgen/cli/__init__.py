"""The command line: config files and arguments in, a trainer with everything it needs out.

What is here imports no torch; ``realgen.cli.realgen_cli`` and ``realgen.cli.training`` do.
"""

from realgen.cli.config_error import ConfigError
from realgen.cli.error_frame import run_command

__all__ = ["ConfigError", "run_command"]
