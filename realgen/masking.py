"""Values that a config takes from the environment, ``${oc.env:NAME}``: kept out of what is written and printed."""

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

SHORTEST = 4
"""Letters of a value that is masked in texts; a shorter one, such as a number of GPUs, is no secret."""
_NAME = re.compile(r"\$\{oc\.env:\s*([^},\s]+)")
_values: dict[str, str] = {}


def watch_environment() -> None:
    """Let omegaconf's resolver ``oc.env`` remember what it reads in this process."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    def read(name: str, *default: Any) -> Any:
        value = oc.env(name, *default)
        hide([name])
        return value

    OmegaConf.register_resolver("oc.env", read, replace=True)


def hide(names: Iterable[str]) -> None:
    """Mask the values of these environment variables from now on."""
    _values.update({name: os.environ[name] for name in names if name in os.environ})


def hidden() -> tuple[str, ...]:
    """Return the names of the variables whose values are masked, for another process to ``hide``."""
    return tuple(_values)


def mask(text: str, secret: str | None = None) -> str:
    """Write ``${oc.env:NAME}`` for each value of the environment that a config, or ``read_secret``, has read.

    Also where the value is quoted, as in a Python text or a URL, or only one of its lines stands. ``secret``, another
    value, becomes ``***``.
    """
    text = text.replace(secret, "***") if secret else text
    found = {piece: name for name, value in _values.items() for piece in _pieces(value)}
    for piece in sorted(found, key=len, reverse=True):
        text = text.replace(piece, f"${{oc.env:{found[piece]}}}")
    return text


def masked(tree: Any) -> Any:
    """Mask all texts of a tree of mappings and lists, keys too."""
    if isinstance(tree, dict):
        return {masked(key): masked(child) for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(masked(child) for child in tree)
    return mask(tree) if isinstance(tree, str) else tree


def recorded(settings: dict[str, Any]) -> dict[str, Any]:
    """Mask settings for a file, and add eight digits of the SHA-256 of each masked value: they show that it changed."""
    hidden = masked(settings)
    names = sorted(set(_NAME.findall(str(hidden))) & _values.keys())
    digests = {name: hashlib.sha256(_values[name].encode()).hexdigest()[:8] for name in names}
    return {**hidden, "environment": digests} if digests else hidden


def mask_output() -> None:
    """Mask what this process prints, outside of whatever has wrapped standard output and error already."""
    sys.stdout, sys.stderr = _Masked(sys.stdout), _Masked(sys.stderr)


def _pieces(value: str) -> Iterator[str]:
    for text in {value, *map(str.strip, value.splitlines())}:
        yield from (each for each in (text, repr(text)[1:-1], quote(text, safe="")) if len(each) >= SHORTEST)


class _Masked:
    """A stream that masks what is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text masked."""
        self._stream.write(mask(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts masked."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
