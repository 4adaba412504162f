"""Turns what a command raises into one or two lines on standard error and an exit code; the same for all commands."""

import codecs
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from io import TextIOWrapper

from realgen.checks import printable
from realgen.cli.component_keys import EXPECTED_ERRORS, explain
from realgen.failures import wants_traceback
from realgen.logging_filters import quiet_imports
from realgen.masking import mask_output
from realgen.progress import at_work

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes after Ctrl-C and after SIGTERM."""


_ASCII = {
    "\N{UPWARDS ARROW}": "^",
    "\N{DOWNWARDS ARROW}": "v",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{PLUS-MINUS SIGN}": "+-",
}


def run_command(command: Callable[[], int], *, doing: str | None = None) -> int:
    """Run a command; return its exit code, 1 after an error, 130 after Ctrl-C. ``REALGEN_TRACEBACK=1`` raises errors.

    What it prints is masked where a config took it from the environment. ``doing`` is what a line says every minute
    where there is no terminal, until ``now_doing`` is called; None: no lines.
    """
    codecs.register_error("realgen", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal's encoding must not end a run at its last line
            stream.reconfigure(errors="realgen")
    before = sys.stdout, sys.stderr
    logging.raiseExceptions = wants_traceback()  # a log on a full disk, as W&B's until the very end, is no second error
    quiet_imports()
    mask_output()
    try:
        with nullcontext() if doing is None else at_work(doing):
            code = command()
        sys.stdout.flush()  # here, where a full disk behind it can be told
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # whatever it was: a line for the user
        if wants_traceback():
            before = sys.stdout, sys.stderr  # Python prints it later
            raise
        sys.stderr.write(f"error: {printable(explain(error))}\n")
        if not isinstance(error, EXPECTED_ERRORS):  # a mistake of this program, then
            sys.stderr.write("       REALGEN_TRACEBACK=1 shows where it was raised.\n")
        return 1
    finally:
        sys.stdout, sys.stderr = before


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace what the encoding of a stream lacks, as ``codecs.register_error`` wants it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(letter, "?") for letter in error.object[error.start : error.end]), error.end
