"""The client of reward servers: deadline, repetitions, replicas behind circuit breakers, answers not trusted."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from realgen.checks import check_address, check_at_least
from realgen.given_files import parse_json
from realgen.remote_calls import (
    NothingSentError,
    RefusedError,
    Retrier,
    RetrySettings,
    TransientError,
    deadline,
    quoted,
    retry_after,
)
from realgen.serving.wire import WireError, decode_rewards

if TYPE_CHECKING:
    import httpx

PATH = "/rewards"
"""Where a server takes requests."""
_REFUSALS = (400, 401, 403, 413, 415, 422)
"""Statuses for a mistake on this side; the same request would be refused again."""
_SECONDS_BETWEEN_LOOKS = 1.0
_BYTES_PER_REWARD, _BYTES_OF_ENVELOPE = 64, 4096


@dataclass(frozen=True)
class ConnectionSettings(RetrySettings):
    """How a client asks, and when it leaves a failing replica alone."""

    timeout: float = 60.0
    """Seconds for one attempt, from connecting to the last byte of the answer, > 0."""
    backoff: float = 0.5
    """Longest wait before the first repetition, in seconds, >= 0; doubles with each, times a random share."""
    max_backoff: float = 30.0
    """Longest wait of that kind, in seconds, >= 0."""
    concurrency: int = 8
    """Largest number of requests at a time, >= 1."""
    failures_to_rest: int = 5
    """Failures in a row after which a replica is left alone, >= 1."""
    rest_seconds: float = 30.0
    """For how long it is left alone, >= 0; then one request tries it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, rest_seconds=self.rest_seconds)
        check_at_least(1, concurrency=self.concurrency, failures_to_rest=self.failures_to_rest)


@dataclass
class Replica:
    """One server, and its state as seen from here."""

    url: str
    failures: int = 0
    """Failures since its last answer."""
    resting_until: float = 0.0
    """Time until which it is left alone, once it has failed too often."""
    busy_until: float = 0.0
    """Time until which it asked to be left alone (Retry-After)."""
    in_flight: int = 0
    """Requests that it has not answered yet."""

    @property
    def free_from(self) -> float:
        """Return the time from which on it may be asked."""
        return max(self.busy_until, self.resting_until)


class Replicas:
    """Replicas of one reward; those that fail often in a row are left alone a while, then tried with one request."""

    def __init__(self, urls: Sequence[str], *, failures_to_rest: int, rest_seconds: float) -> None:
        self.failures_to_rest = failures_to_rest
        self.rest_seconds = rest_seconds
        self.all = [Replica(url) for url in urls]
        self._turns = itertools.cycle(range(len(self.all)))

    def pick(self, *, now: float) -> Replica | None:
        """Return the replica with the fewest requests in flight, in turns; None while all rest at ``now`` (seconds)."""
        turn = next(self._turns)
        free = [replica for replica in self.all[turn:] + self.all[:turn] if now >= replica.free_from]
        if not free:
            return None
        chosen = min(free, key=lambda replica: replica.in_flight)
        if chosen.failures >= self.failures_to_rest:
            chosen.resting_until = now + self.rest_seconds  # this request is its trial; the others wait for the outcome
        return chosen

    def asked_to_wait(self, replica: Replica, *, until: float) -> None:
        """Note that a replica asked to be left alone; an earlier end than it asked for before does not count."""
        replica.busy_until = max(replica.busy_until, until)

    def seconds_until_free(self, *, now: float) -> float:
        """Return how long every replica asked to be left alone; 0 if one of them did not."""
        return max(0.0, min(replica.busy_until for replica in self.all) - now)

    def seconds_until_trial(self, *, now: float) -> float:
        """Return how long all replicas rest, or asked to be left alone; 0 if one of them may be asked."""
        return max(0.0, min(replica.free_from for replica in self.all) - now)

    def failed(self, replica: Replica, *, now: float) -> None:
        """Note that a replica gave no valid answer."""
        replica.failures += 1
        if replica.failures >= self.failures_to_rest:
            replica.resting_until = now + self.rest_seconds

    def answered(self, replica: Replica) -> None:
        """Note that a replica gave a valid answer."""
        replica.failures, replica.resting_until = 0, 0.0


class RewardClient:
    """Sends requests to the replicas of one reward; keeps no sockets between calls, only the replicas' failures.

    Proxies of the environment are not used, and redirects are not followed: images and token go where ``urls`` say.
    ValueError if there is no url, or one is no http address or holds a password.

    Args:
        urls: The replicas: ``http://host:port``, or ``https``.
        connection: Timeouts, repetitions, circuit breaker.
        token: Sent as bearer token; None for none.
    """

    def __init__(self, urls: Sequence[str], connection: ConnectionSettings, *, token: str | None = None) -> None:
        if not urls:
            raise ValueError("urls must name at least one server, got none.")
        for url in urls:
            check_address("urls", url, "look like http://host:port", instead="set token_variable")
        self.connection = connection
        self.token = token
        self.replicas = Replicas(
            [url.rstrip("/") for url in urls],
            failures_to_rest=connection.failures_to_rest,
            rest_seconds=connection.rest_seconds,
        )
        self.num_attempts = 0
        """Requests sent so far, repetitions included."""
        self._retrier = Retrier("reward server", connection)
        self._last_failure = ""

    @property
    def gave_up(self) -> bool:
        """Whether no server has answered for longer than ``patience``."""
        return self._retrier.gave_up

    def http(self) -> httpx.AsyncClient:
        """Return a new pool of connections, to be used as a context and handed to ``ask``."""
        import httpx

        return httpx.AsyncClient(timeout=None, trust_env=False, follow_redirects=False)

    async def ask(
        self,
        http: httpx.AsyncClient,
        body: bytes,
        content_type: str,
        rows: int,
        *,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> list[float]:
        """Send one request, to one replica after another, until one gives a valid answer: a reward for each row.

        ``http`` is the result of that method. A reward is from ``low`` to ``high``, or NaN for a row that the server
        could not score.

        Raises:
            UnavailableError: If no attempt brought a valid answer.
            RefusedError: If a server refuses the request for what it is, or asks to wait longer than ``max_wait``.
        """

        async def attempt() -> list[float]:
            replica = await self._free_replica()
            replica.in_flight += 1
            try:
                async with deadline(self.connection.timeout):
                    content = await self._post(http, replica, body, content_type, rows)
                rewards = decode_rewards(content, rows, low=low, high=high)
            except (OSError, WireError, TransientError) as error:
                now = time.monotonic()
                self.replicas.failed(replica, now=now)
                self._retrier.pause(self.replicas.seconds_until_free(now=now))
                self._last_failure = f"{replica.url}: {quoted(str(error), self.token)}"
                raise TransientError(self._last_failure) from error
            finally:
                replica.in_flight -= 1
            self.replicas.answered(replica)
            return rewards

        return (await self._retrier.call(attempt))[0]

    async def _free_replica(self) -> Replica:
        """Wait for a replica that may be asked; raise NothingSentError if the patience ends before."""
        while (replica := self.replicas.pick(now=time.monotonic())) is None:
            seconds = self.replicas.seconds_until_trial(now=time.monotonic())
            if seconds > self._retrier.patience_left:
                count, last = len(self.replicas.all), self._last_failure
                raise NothingSentError(f"all {count} replicas failed just before, and rest; last failure: {last}")
            await asyncio.sleep(min(seconds, _SECONDS_BETWEEN_LOOKS))  # another request's trial may end the rest
        return replica

    async def _post(
        self, http: httpx.AsyncClient, replica: Replica, body: bytes, content_type: str, rows: int
    ) -> bytes:
        import httpx

        # Without compression, so that a small answer cannot unpack into a large one.
        headers = {"Content-Type": content_type, "Accept-Encoding": "identity"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        self.num_attempts += 1
        try:
            async with http.stream("POST", f"{replica.url}{PATH}", content=body, headers=headers) as response:
                content, most = b"", _BYTES_OF_ENVELOPE + _BYTES_PER_REWARD * rows
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > most:
                        raise WireError(f"the answer must have at most {most} bytes, got more.")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TransientError(f"{type(error).__name__} {quoted(str(error), self.token)}".strip()) from None
        if response.status_code == 200:
            return content
        detail = quoted(_detail(content), self.token)
        said = f"answered {response.status_code}" + (f": {detail}" if detail else "")
        if response.status_code in _REFUSALS:
            raise RefusedError(f"{replica.url} refuses the request: it {said}")
        seconds = retry_after(response.headers, now=time.time())
        self.replicas.asked_to_wait(replica, until=time.monotonic() + seconds)
        raise TransientError(said)


def _detail(content: bytes) -> str:
    """Return what an error answer says; nothing if it is no such answer."""
    try:
        said = parse_json(content)
    except ValueError:
        return ""
    text = said.get("detail") if isinstance(said, Mapping) else None
    return text if isinstance(text, str) else ""
