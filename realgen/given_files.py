"""Files that others made: opened where they are regular files, and JSON that no reader stumbles over later."""

import json
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any

from realgen import __version__

MAX_DEPTH = 64
"""Levels of JSON; what walks through it later does so by recursion."""
STARTED_IN = "# started in "
"""How the second line of a recorded config begins; then comes a folder, as JSON."""


def config_head(command: str) -> str:
    """Return the first two lines of a recorded config: version and command, and the folder in which it was given."""
    return f"# realgen {__version__}: {command}\n{STARTED_IN}{json.dumps(str(Path.cwd()))}\n"


def open_regular(path: Path) -> IO[bytes]:
    """Open a file; raise ValueError for a FIFO, socket or device, which may never end, and where it cannot be read."""
    try:
        if not S_ISREG(path.stat().st_mode):
            raise ValueError("the file cannot be read (it is no regular file)")
        return path.open("rb")
    except OSError as error:
        raise ValueError(f"the file cannot be read ({error.strerror})") from error


def read_json(path: Path) -> Any:
    """Read a JSON file; ValueError, with its path, if it is no regular file or not what ``parse_json`` takes."""
    try:
        with open_regular(path) as file:
            text = file.read()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Parse JSON by ``json.loads``, bytes as UTF-8; ValueError if it is none, or nested deeper than ``MAX_DEPTH``."""
    deep = ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    try:
        found = json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"), **options)
    except RecursionError:
        raise deep from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise ValueError(str(error).partition("; use sys")[0]) from error
    level: list[Any] = [found] if isinstance(found, dict | list) else []
    for _ in range(MAX_DEPTH):
        inside = (child for each in level for child in (each.values() if isinstance(each, dict) else each))
        level = [child for child in inside if isinstance(child, dict | list)]
    if level:
        raise deep
    return found
