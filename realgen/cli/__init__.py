"""The command line: config files and arguments in, a trainer with everything it needs out.

What is here imports no torch; ``realgen.cli.realgen_cli`` and ``realgen.cli.training`` do.
"""


class ConfigError(ValueError):
    """A mistake in a config or on the command line, described in one or two lines that name the argument."""
