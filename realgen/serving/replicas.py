"""Which server to ask: several replicas of one reward, each behind a circuit breaker."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Replica:
    """One server, and how it has done so far."""

    url: str
    """Where it is."""
    failures: int = 0
    """Failures since its last answer."""
    resting_until: float = 0.0
    """Until when it is left alone, once it has failed too often."""
    in_flight: int = 0
    """Requests that it has not answered yet."""


class Replicas:
    """Replicas of one reward; those that fail are left alone for a while, then tried with one request.

    Args:
        urls: Where they are.
        failures_to_rest: Failures in a row after which a replica is left alone.
        rest_seconds: For how long.

    Example:
        >>> replicas = Replicas(["http://a", "http://b"], failures_to_rest=1, rest_seconds=30.0)
        >>> first = replicas.pick(now=0.0)
        >>> replicas.failed(first, now=0.0)
        >>> first.url, replicas.pick(now=1.0).url, replicas.pick(now=2.0).url
        ('http://a', 'http://b', 'http://b')
    """

    def __init__(self, urls: Sequence[str], *, failures_to_rest: int, rest_seconds: float) -> None:
        self.failures_to_rest = failures_to_rest
        self.rest_seconds = rest_seconds
        self.all = [Replica(url) for url in urls]
        self._turns = itertools.cycle(range(len(self.all)))

    def pick(self, *, now: float) -> Replica | None:
        """The least busy replica that may be asked, in turns; ``None`` when all of them rest.

        Args:
            now: Seconds on the clock that ``failed`` is told, too.
        """
        turn = next(self._turns)
        awake = [replica for replica in self.all[turn:] + self.all[:turn] if self._may_ask(replica, now)]
        if not awake:
            return None
        chosen = min(awake, key=lambda replica: replica.in_flight)
        if chosen.failures >= self.failures_to_rest:
            chosen.resting_until = now + self.rest_seconds  # one request is its trial; the others wait for the outcome
        return chosen

    def failed(self, replica: Replica, *, now: float) -> None:
        """Note that a replica has not answered, or not truly."""
        replica.failures += 1
        if replica.failures >= self.failures_to_rest:
            replica.resting_until = now + self.rest_seconds

    def answered(self, replica: Replica) -> None:
        """Note that a replica is well."""
        replica.failures, replica.resting_until = 0, 0.0

    def _may_ask(self, replica: Replica, now: float) -> bool:
        return replica.failures < self.failures_to_rest or now >= replica.resting_until


def backoff_seconds(attempt: int, *, first: float, longest: float, share: float) -> float:
    """How long to wait before another attempt: doubling, with full jitter so that clients do not come in step.

    Source: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015 ("full jitter").

    Args:
        attempt: 1 before the first repetition, 2 before the second.
        first: Longest wait before the first repetition, in seconds.
        longest: Longest wait at all, in seconds.
        share: Uniform random number in [0, 1).

    Returns:
        Seconds, below ``min(longest, first * 2 ** (attempt - 1))``.

    Example:
        >>> [backoff_seconds(attempt, first=0.5, longest=3.0, share=0.5) for attempt in (1, 2, 3, 4)]
        [0.25, 0.5, 1.0, 1.5]
    """
    return share * min(longest, first * 2.0 ** (attempt - 1))
