"""The circuit breaker, on a clock of our own."""

import pytest

from realgen.serving.client import Replicas


@pytest.fixture
def replicas():
    return Replicas(["a", "b"], failures_to_rest=2, rest_seconds=10.0)


def test_replicas_take_turns(replicas):
    assert [replicas.pick(now=0.0).url for _ in range(4)] == ["a", "b", "a", "b"]


def test_the_least_busy_is_picked(replicas):
    replicas.all[0].in_flight = 2
    replicas.all[1].in_flight = 1
    assert [replicas.pick(now=0.0).url for _ in range(3)] == ["b", "b", "b"]


def test_two_failures_in_a_row_open_the_breaker(replicas):
    a, b = replicas.all
    replicas.failed(a, now=0.0)
    replicas.answered(a)
    replicas.failed(a, now=1.0)
    assert {replicas.pick(now=1.0).url for _ in range(2)} == {"a", "b"}
    replicas.failed(a, now=2.0)
    assert {replicas.pick(now=11.9).url for _ in range(4)} == {"b"}
    replicas.failed(b, now=3.0)
    replicas.failed(b, now=3.0)
    assert replicas.pick(now=11.9) is None


def test_one_request_tries_a_rested_replica(replicas):
    a, b = replicas.all
    for replica in (a, a, b, b):
        replicas.failed(replica, now=0.0)
    assert {replicas.pick(now=10.0).url, replicas.pick(now=10.0).url} == {"a", "b"}
    assert replicas.pick(now=10.0) is None  # both trials are in flight
    replicas.failed(a, now=11.0)
    replicas.answered(b)
    assert [replicas.pick(now=12.0).url for _ in range(3)] == ["b", "b", "b"]
    assert {replicas.pick(now=21.0).url for _ in range(2)} == {"a", "b"}


def test_a_replica_is_left_alone_as_long_as_it_asks(replicas):
    a, b = replicas.all
    replicas.asked_to_wait(a, until=5.0)
    replicas.asked_to_wait(a, until=1.0)
    assert {replicas.pick(now=4.9).url for _ in range(4)} == {"b"}
    assert replicas.seconds_until_free(now=1.0) == 0.0
    replicas.asked_to_wait(b, until=3.0)
    assert replicas.pick(now=2.0) is None
    assert replicas.seconds_until_free(now=1.0) == 2.0
    replicas.answered(b)  # to a request that was sent before it asked
    assert replicas.pick(now=2.0) is None
    assert {replicas.pick(now=5.0).url for _ in range(2)} == {"a", "b"}
