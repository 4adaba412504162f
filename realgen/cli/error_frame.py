"""Turns what a command raises into one or two lines on standard error and an exit code; the same for all commands."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from realgen.cli.component_keys import EXPECTED_ERRORS, explain

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes after Ctrl-C and after SIGTERM."""


def run_command(command: Callable[[], int]) -> int:
    """Run a command; with ``REALGEN_TRACEBACK=1`` its errors are raised.

    Args:
        command: What to run; returns the exit code.

    Returns:
        Its exit code; 1 after an error, 130 after Ctrl-C.
    """
    try:
        return command()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # whatever it was: a line for the user
        if wants_traceback():
            raise
        sys.stderr.write(f"error: {explain(error)}\n")
        if not isinstance(error, EXPECTED_ERRORS):  # a mistake of this program, then
            sys.stderr.write("       REALGEN_TRACEBACK=1 shows where it was raised.\n")
        return 1


def wants_traceback() -> bool:
    """Return whether the user wants whole tracebacks."""
    return os.environ.get("REALGEN_TRACEBACK", "0") not in ("", "0")
