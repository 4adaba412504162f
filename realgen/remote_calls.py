"""Calls to a service: what its failures mean, when a call is repeated, and how synchronous code waits for it."""

import asyncio
import email.utils
import logging
import math
import os
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import tenacity

from realgen.checks import check_at_least
from realgen.masking import hide, mask

_LOGGER = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_JITTER_SECONDS = 0.5  # longest random delay after a pause, so that the calls held back by it do not arrive all at once
_ATTEMPTS_BESIDE_ANSWERS = 5
"""Attempts at a call that fails while the service answers others, so that the fault is the call's."""
_SECONDS_UNTOLD = 5.0  # length from which an outage is logged


class UnavailableError(Exception):
    """A service gave no answer to this call; it may answer another one, or the same one later."""


class RefusedError(RuntimeError):
    """A service refuses all such calls, because of a key, a limit or a quota; repeating does not help."""


class TransientError(Exception):
    """One attempt failed in a way that may pass; ``Retrier`` makes another one."""


class NothingSentError(TransientError):
    """No attempt was made, and none can be made before ``patience`` ends."""


@dataclass(frozen=True)
class RetrySettings:
    """Timeouts and repetitions of the calls to a service."""

    timeout: float = 180.0
    """Seconds for one attempt, from connecting to the last byte of the answer, > 0."""
    patience: float = 600.0
    """Seconds, >= 0, for which the service may answer no call at all before its calls fail."""
    retries: int | None = None
    """Further attempts of a call after the first, >= 0; null for as many as ``patience`` allows."""
    backoff: float = 1.0
    """Longest wait before the first repetition, in seconds, >= 0; doubles with each, times a random share."""
    max_backoff: float = 60.0
    """Longest wait of that kind, in seconds, >= 0."""
    max_wait: float = 900.0
    """Longest wait, in seconds, >= 0, that the service may ask for (Retry-After); the run stops if it asks for more."""

    def __post_init__(self) -> None:
        check_at_least(0, patience=self.patience, retries=self.retries, backoff=self.backoff)
        check_at_least(0, max_backoff=self.max_backoff, max_wait=self.max_wait)
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout must be above 0 and finite, got {self.timeout}.")


class Retrier:
    """Repeats the calls to one service, whose name stands in messages, while they raise ``TransientError``.

    The waits between attempts double, times a uniform random share, so that clients do not fall into step ("full
    jitter": Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015). An outage begins with the first
    failure after an answer, and is that of all calls.
    """

    def __init__(self, service: str, settings: RetrySettings) -> None:
        self.service = service
        self.settings = settings
        self._backoff = tenacity.wait_exponential(multiplier=settings.backoff, max=settings.max_backoff)
        self._random = random.Random()  # not the global one: retries must not change the random numbers of a run
        self._paused_until = self._told_until = 0.0
        self._answers = 0
        self._down_since: float | None = None
        self._told_outage = False
        self.gave_up = False
        """Whether an outage has lasted longer than ``patience``; until the next answer."""

    @property
    def patience_left(self) -> float:
        """Seconds for which the service may still answer nothing; all of ``patience`` while there is no outage."""
        if self._down_since is None:
            return self.settings.patience
        return self.settings.patience - (time.monotonic() - self._down_since)

    def pause(self, seconds: float) -> None:
        """Hold back all calls for some seconds; a longer pause that was set before stays."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    async def call(self, send: Callable[[], Awaitable[_Answer]]) -> tuple[_Answer, int]:
        """Call until an attempt succeeds; return answer and number of attempts, or raise why none did."""
        retrying = tenacity.AsyncRetrying(
            sleep=asyncio.sleep,
            stop=lambda state: self._gives_up(state, answers),
            wait=lambda state: self._random.random() * self._backoff(state),
            retry=tenacity.retry_if_exception_type(TransientError),
            reraise=True,
        )
        attempts, answers = 0, self._answers

        async def attempt() -> _Answer:
            nonlocal attempts
            await self._wait_for_end_of_pause()
            attempts += 1
            try:
                answer = await send()
            except NothingSentError:
                attempts -= 1
                raise
            self._answers, self._down_since, self._told_outage, self.gave_up = self._answers + 1, None, False, False
            return answer

        try:
            return await retrying(attempt), attempts
        except TransientError as error:
            raise UnavailableError(f"{self.service}: {error} ({attempts} attempts)") from None

    def _gives_up(self, state: tenacity.RetryCallState, answers: int) -> bool:
        """Return whether a call has failed for good, which began when there had been so many answers."""
        error = state.outcome.exception() if state.outcome else None
        if self._down_since is None:
            self._down_since = time.monotonic()
        outage = time.monotonic() - self._down_since
        if outage >= _SECONDS_UNTOLD and not self._told_outage:
            self._told_outage = True
            _LOGGER.warning("%s: %s; asked again for up to %.0f s.", self.service, error, max(0, self.patience_left))
        retries = math.inf if self.settings.retries is None else self.settings.retries
        if self._answers > answers:
            retries = min(retries, _ATTEMPTS_BESIDE_ANSWERS - 1)
        lasted = isinstance(error, NothingSentError) or self.patience_left <= 0
        self.gave_up = self.gave_up or lasted
        return lasted or state.attempt_number > retries

    async def _wait_for_end_of_pause(self) -> None:
        while (seconds := self._paused_until - time.monotonic()) > 0:
            if seconds > self.settings.max_wait:
                raise RefusedError(
                    f"{self.service}: asks to wait {seconds:.0f} s, longer than max_wait={self.settings.max_wait:g}; "
                    "what was done so far is kept, run again later."
                )
            if self._told_until < self._paused_until:
                self._told_until = self._paused_until
                _LOGGER.warning("%s: asks to wait %.1f s; waiting.", self.service, seconds)
            await asyncio.sleep(seconds + _JITTER_SECONDS * self._random.random())


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Limit the time of one attempt; raise TransientError if the body takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TransientError(f"no answer within {seconds:g} s") from None


def retry_after(headers: Mapping[str, str], *, now: float) -> float:
    """Read how many seconds the headers of an answer ask to wait (RFC 9110, section 10.2.3); 0 if none.

    Headers stand by lower-case name; ``retry-after-ms`` is OpenAI's and counts first. ``now`` is in seconds since 1970,
    as ``retry-after`` may be a date.
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


def read_secret(name: str, variable: str) -> str:
    """Return a variable's secret, stripped, masked from now on; ValueError, naming ``name``, if it cannot be sent."""
    secret = os.environ.get(variable, "").strip()
    if not secret:
        raise ValueError(
            f"{name} names the environment variable {variable!r}, which is not set; a service without keys wants null."
        )
    if not re.fullmatch("[!-~]+", secret):
        raise ValueError(f"{name} names {variable!r}, which must hold visible ASCII characters only (not shown).")
    hide([variable])
    return secret


def quoted(text: str, secret: str | None = None) -> str:
    """Return what a service says as a part of one line: at most 300 characters, without secrets, which some quote."""
    printable = "".join(letter if letter.isprintable() else " " for letter in mask(text, secret))
    return " ".join(printable.split())[:300]


def run_async(work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Wait for a coroutine, also inside a running event loop, as in a notebook; return its result."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:  # a thread of its own has no running loop yet
        return thread.submit(asyncio.run, work).result()
