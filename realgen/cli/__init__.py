"""The command line: config files and arguments in, a trainer with everything it needs out."""

from realgen.cli.config_error import ConfigError
from realgen.cli.realgen_cli import RealGenCLI
from realgen.cli.run_dir import Run
from realgen.cli.training import command, train

__all__ = ["ConfigError", "RealGenCLI", "Run", "command", "train"]
