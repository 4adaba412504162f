"""How long an endpoint asks its clients to wait, and a gate at which all of them do."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import re
import time
from collections.abc import Mapping

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BUDGETS = ("requests", "tokens")


def parse_duration(text: str) -> float | None:
    """Read a duration as rate-limit headers write it.

    Args:
        text: ``"6m0s"``, ``"20ms"``, ``"1.5"`` (seconds).

    Returns:
        Seconds; None if it is no duration.

    Example:
        >>> parse_duration("1h2m3.5s"), parse_duration("20ms"), parse_duration("12"), parse_duration("soon")
        (3723.5, 0.02, 12.0, None)
    """
    text = text.strip().lower()
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+", text):
        return None
    return math.fsum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|[smhd])", text))


def told_to_wait(headers: Mapping[str, str], *, now: float, tokens: int = 0, limited: bool = False) -> float:
    """How long the headers of an answer ask to wait before the next request.

    ``retry-after-ms`` and ``retry-after`` (seconds, or a date) say it outright. ``x-ratelimit-remaining-requests`` and
    ``-tokens`` say what is left: where that is nothing, or fewer tokens than the last question took, the wait is that
    of ``x-ratelimit-reset-*``.

    Args:
        headers: By lower-case name.
        now: Seconds since 1970.
        tokens: That the last question took.
        limited: Whether the answer was 429: without ``retry-after``, its resets count, whatever is said to be left.

    Returns:
        Seconds, >= 0.

    Example:
        >>> told_to_wait({"retry-after": "2"}, now=0.0)
        2.0
        >>> told_to_wait({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0s"}, now=0.0)
        60.0
        >>> told_to_wait({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "1m0s"}, now=0.0)
        0.0
    """
    outright = _retry_after(headers, now)
    waits = [0.0 if outright is None else outright]
    remaining = {name: _number(headers.get(f"x-ratelimit-remaining-{name}")) for name in _BUDGETS}
    exhausted = [
        name for name, left in remaining.items() if left is not None and left < max(1, tokens * (name == "tokens"))
    ]
    if limited and outright is None and not exhausted:
        exhausted = list(_BUDGETS)
    waits += [parse_duration(headers.get(f"x-ratelimit-reset-{name}", "")) or 0.0 for name in exhausted]
    return max(waits)


class TooLongError(Exception):
    """An endpoint asks to wait longer than its client wants to."""


class RateGate:
    """Where all questions to one endpoint wait when it asks for that.

    Args:
        jitter: Longest further wait of each, in seconds, so that they do not come all at once.
    """

    def __init__(self, *, jitter: float = 0.5) -> None:
        self.jitter = jitter
        self._opens_at = 0.0
        self._random = random.Random()  # of its own, so that a busy network leaves the run's random numbers as they are

    def close(self, seconds: float) -> None:
        """Let nobody through for some seconds; a longer wait that was asked for before goes on."""
        self._opens_at = max(self._opens_at, time.monotonic() + seconds)

    async def wait(self, *, longest: float = math.inf) -> None:
        """Wait until the gate is open.

        Args:
            longest: In seconds.

        Raises:
            TooLongError: If it opens later than that.
        """
        waited = False
        while (seconds := self._opens_at - time.monotonic()) > 0:
            if seconds > longest:
                raise TooLongError(f"the endpoint asks to wait {seconds:.0f} s")
            waited = True
            await asyncio.sleep(seconds)
        if waited:
            await asyncio.sleep(self.jitter * self._random.random())


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        number = _number(headers.get(name))
        if number is not None:
            return number * unit
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, OverflowError):  # the latter of a year that no calendar has
        return None
    return max(0.0, date.timestamp() - now)


def _number(text: str | None) -> float | None:
    """A number that is finite and not negative; None for anything else."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None
