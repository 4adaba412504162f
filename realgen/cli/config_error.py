"""The error of a config: what a user gets to read instead of a traceback."""

from __future__ import annotations


class ConfigError(ValueError):
    """A mistake in a config or on the command line, described in one or two lines that name the argument."""
