"""Chooses a server among the replicas of one reward, each behind a circuit breaker."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


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
    """Replicas of one reward; those that fail often in a row are left alone for a while, then tried with one request.

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
