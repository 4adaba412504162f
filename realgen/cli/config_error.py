"""The error of a config: what a user gets to read instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A mistake in a config or on the command line, described in one or two lines that name the argument."""


def nearest(name: str, names: Iterable[str], *, prefix: str = "") -> str:
    """Return the sentence that suggests the right name for a wrong one.

    Args:
        name: What was given.
        names: What is allowed.
        prefix: Written before each name.

    Returns:
        The nearest name, or all of them when none is near and there are few; empty when there is nothing to say.

    Example:
        >>> nearest("max_step", ["max_steps", "max_time", "devices"])
        'Did you mean max_steps?'
        >>> nearest("x", ["alpha", "beta"])
        'Allowed: alpha, beta.'
    """
    allowed = sorted(names)
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {prefix}{close[0]}?"
    if 0 < len(allowed) <= 20:
        return f"Allowed: {', '.join(prefix + other for other in allowed)}."
    return ""
