"""Calls to a service: what its failures mean, when a call is repeated, and how synchronous code waits for it."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import tenacity

from realgen.checks import check_at_least

_Answer = TypeVar("_Answer")
_JITTER_SECONDS = 0.5
"""Longest random delay after a pause, so that the calls held back by it do not arrive all at once."""


class UnavailableError(Exception):
    """A service gave no answer to this call; it may answer another one, or the same one later."""


class RefusedError(RuntimeError):
    """A service refuses all such calls, because of a key, a limit or a quota; repeating does not help."""


class TransientError(Exception):
    """One attempt failed in a way that may pass; ``Retrier`` makes another one."""


@dataclass(frozen=True)
class RetrySettings:
    """Timeouts and repetitions of the calls to a service."""

    timeout: float = 180.0
    """Seconds for one attempt, from connecting to the last byte of the answer, > 0."""
    retries: int = 5
    """Further attempts after the first, >= 0."""
    backoff: float = 1.0
    """Longest wait before the first repetition, in seconds, >= 0; doubles with each, times a random share."""
    max_backoff: float = 60.0
    """Longest wait of that kind, in seconds, >= 0."""
    max_wait: float = 900.0
    """Longest wait, in seconds, >= 0, that the service may ask for (Retry-After); the run stops if it asks for more."""

    def __post_init__(self) -> None:
        check_at_least(0, retries=self.retries, backoff=self.backoff)
        check_at_least(0, max_backoff=self.max_backoff, max_wait=self.max_wait)
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout must be above 0 and finite, got {self.timeout}.")


class Retrier:
    """Repeats the calls to one service while they raise ``TransientError``.

    The waits between attempts double, times a uniform random share, so that clients do not fall into step ("full
    jitter": Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).

    Args:
        service: Name of the service in messages.
        settings: How often and how long.
    """

    def __init__(self, service: str, settings: RetrySettings) -> None:
        self.service = service
        self.settings = settings
        self._backoff = tenacity.wait_exponential(multiplier=settings.backoff, max=settings.max_backoff)
        self._random = random.Random()  # not the global one: retries must not change the random numbers of a run
        self._paused_until = 0.0

    def pause(self, seconds: float) -> None:
        """Hold back all calls for some seconds; a longer pause that was set before stays."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    async def call(self, send: Callable[[], Awaitable[_Answer]]) -> tuple[_Answer, int]:
        """Call until an attempt succeeds.

        Args:
            send: Makes one attempt.

        Returns:
            Its answer, and the number of attempts.

        Raises:
            UnavailableError: If the last attempt failed, too; tells why.
            RefusedError: If the service asks for a longer pause than ``max_wait``.
        """
        retrying = tenacity.AsyncRetrying(
            sleep=asyncio.sleep,
            stop=tenacity.stop_after_attempt(self.settings.retries + 1),
            wait=lambda state: self._random.random() * self._backoff(state),
            retry=tenacity.retry_if_exception_type(TransientError),
            reraise=True,
        )
        attempts = 0

        async def attempt() -> _Answer:
            nonlocal attempts
            await self._wait_for_end_of_pause()
            attempts += 1
            return await send()

        try:
            return await retrying(attempt), attempts
        except TransientError as error:
            raise UnavailableError(f"{self.service}: {error} ({attempts} attempts)") from None

    async def _wait_for_end_of_pause(self) -> None:
        while (seconds := self._paused_until - time.monotonic()) > 0:
            if seconds > self.settings.max_wait:
                raise RefusedError(
                    f"{self.service}: asks to wait {seconds:.0f} s, longer than max_wait={self.settings.max_wait:g}; "
                    "what was done so far is kept, run again later."
                )
            await asyncio.sleep(seconds + _JITTER_SECONDS * self._random.random())


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Limit the time of one attempt.

    Raises:
        TransientError: If the body takes longer.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TransientError(f"no answer within {seconds:g} s") from None


def retry_after(headers: Mapping[str, str], *, now: float) -> float:
    """Read how long the headers of an answer ask to wait (RFC 9110, section 10.2.3).

    Args:
        headers: By lower-case name; ``retry-after-ms`` is OpenAI's and counts first.
        now: Seconds since 1970; ``retry-after`` may be a date.

    Returns:
        Seconds, >= 0; 0 if they ask for none, or cannot be read.

    Example:
        >>> retry_after({"retry-after": "2"}, now=0.0)
        2.0
        >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=50.0)
        10.0
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            number = float(headers.get(name, ""))
        except ValueError:
            continue
        if 0 <= number < math.inf:
            return number * unit
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, OverflowError):  # the latter for a year that no calendar has
        return 0.0
    return max(0.0, date.timestamp() - now)


def run_async(work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Wait for asynchronous work, also inside a running event loop, as in a notebook.

    Args:
        work: A coroutine.

    Returns:
        Its result.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:  # a thread of its own has no running loop yet
        return thread.submit(asyncio.run, work).result()
