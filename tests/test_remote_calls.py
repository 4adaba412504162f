"""Calls that fail for a while, and services that ask to wait."""

import asyncio
import email.utils
import math
import random
import time

import pytest

from realgen.remote_calls import (
    RefusedError,
    Retrier,
    RetrySettings,
    TransientError,
    UnavailableError,
    deadline,
    retry_after,
    run_async,
)

QUICK = RetrySettings(retries=2, backoff=0.0)
DATE = email.utils.formatdate(1000.0, usegmt=True)


def attempts_of(*outcomes):
    """A call whose attempts end as given."""
    left = list(outcomes)

    async def attempt():
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return attempt


def test_an_attempt_that_fails_for_a_while_is_repeated():
    call = attempts_of(TransientError("late"), TransientError("late"), "yes")
    assert asyncio.run(Retrier("judge", QUICK).call(call)) == ("yes", 3)


def test_after_the_last_attempt_the_last_cause_is_named():
    call = attempts_of(TransientError("late"), TransientError("later"), TransientError("gone"), "yes")
    with pytest.raises(UnavailableError, match=r"^judge: gone \(3 attempts\)$"):
        asyncio.run(Retrier("judge", QUICK).call(call))


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("asyncio.sleep", self.sleep)

    async def sleep(self, seconds):
        self.now += seconds


def always(error):
    async def attempt():
        raise error

    return attempt


def test_an_outage_is_borne_for_its_patience_and_told_once(monkeypatch, caplog):
    clock = Clock(monkeypatch)
    retrier = Retrier("judge", RetrySettings(patience=600.0, backoff=8.0, max_backoff=8.0))
    with pytest.raises(UnavailableError, match="judge: no route"):
        asyncio.run(retrier.call(always(TransientError("no route"))))
    assert 600 <= clock.now < 610
    assert [record.getMessage().split(";")[0] for record in caplog.records] == ["judge: no route"]
    with pytest.raises(UnavailableError, match=r"\(1 attempts\)"):  # the outage goes on: no second patience
        asyncio.run(retrier.call(always(TransientError("no route"))))
    assert asyncio.run(retrier.call(attempts_of("yes"))) == ("yes", 1)
    assert retrier.patience_left == 600.0


def test_a_call_that_alone_fails_does_not_wait_for_the_patience(monkeypatch):
    clock = Clock(monkeypatch)
    retrier = Retrier("judge", RetrySettings(patience=600.0, backoff=1.0))

    async def poison():
        await retrier.call(attempts_of("yes"))  # others are answered meanwhile
        raise TransientError("this one is too large")

    with pytest.raises(UnavailableError, match=r"too large \(5 attempts\)"):
        asyncio.run(retrier.call(poison))
    assert clock.now < 20


def test_a_pause_longer_than_the_patience_is_waited_for_and_logged_once(monkeypatch, caplog):
    clock = Clock(monkeypatch)
    retrier = Retrier("judge", RetrySettings(patience=10.0))
    retrier.pause(800.0)

    async def two():
        return await asyncio.gather(*(retrier.call(attempts_of("yes")) for _ in range(2)))

    assert asyncio.run(two()) == [("yes", 1), ("yes", 1)]
    assert clock.now >= 800
    assert [record.getMessage() for record in caplog.records] == ["judge: asks to wait 800.0 s; waiting."]


@pytest.mark.parametrize("error", [RefusedError("no"), UnavailableError("not this one"), ValueError("broken")])
def test_any_other_failure_is_final(error):
    with pytest.raises(type(error), match=str(error)):
        asyncio.run(Retrier("judge", QUICK).call(attempts_of(error, "yes")))


def test_waits_double_up_to_their_limit_times_a_share_of_a_generator_of_their_own(monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    retrier = Retrier("judge", RetrySettings(retries=4, backoff=1.0, max_backoff=5.0))
    retrier._random.seed(7)
    before = random.getstate()
    asyncio.run(retrier.call(attempts_of(*[TransientError("late")] * 4, "yes")))
    assert random.getstate() == before
    shares = random.Random(7)
    assert waits == [longest * shares.random() for longest in (1.0, 2.0, 4.0, 5.0)]


def test_a_call_can_be_cancelled_while_it_waits():
    async def cancel():
        retrier = Retrier("judge", QUICK)
        retrier.pause(60.0)
        call = asyncio.ensure_future(retrier.call(attempts_of("yes")))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(call, 5)

    asyncio.run(cancel())


def test_all_wait_during_a_pause_and_nobody_without_one():
    async def wait_five_times():
        retrier = Retrier("judge", QUICK)
        await asyncio.wait_for(retrier.call(attempts_of("yes")), 5)
        begin = time.monotonic()
        retrier.pause(0.2)
        retrier.pause(0.01)  # a shorter one does not end it earlier
        await asyncio.gather(*(retrier.call(attempts_of("yes")) for _ in range(5)))
        return time.monotonic() - begin

    assert asyncio.run(wait_five_times()) >= 0.2


def test_a_pause_beyond_max_wait_is_a_refusal():
    retrier = Retrier("judge", RetrySettings(max_wait=10.0))
    retrier.pause(60.0)
    with pytest.raises(RefusedError, match="judge: asks to wait 60 s, longer than max_wait=10"):
        asyncio.run(retrier.call(attempts_of("yes")))


def test_a_deadline_is_a_passing_failure():
    async def hang():
        async with deadline(0.05):
            await asyncio.sleep(60)

    with pytest.raises(TransientError, match=r"no answer within 0\.05 s"):
        asyncio.run(hang())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": DATE}, 10.0),
        ({"retry-after": "later"}, 0.0),
        ({"retry-after": f"Mon, 01 Jan {9**20} 00:00:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
    ],
)
def test_headers_that_ask_to_wait(headers, seconds):
    assert retry_after(headers, now=990.0) == seconds


def test_a_date_in_the_past_is_now():
    assert retry_after({"retry-after": DATE}, now=2000.0) == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0.0),
        ("timeout", math.inf),
        ("retries", -1),
        ("patience", math.nan),
        ("backoff", -1.0),
        ("max_backoff", math.nan),
        ("max_wait", -1.0),
    ],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*got"):
        RetrySettings(**{name: value})


def test_asynchronous_work_is_waited_for_inside_a_loop_and_outside():
    async def answer():
        await asyncio.sleep(0)
        return 7

    async def notebook():
        return run_async(answer())

    assert run_async(answer()) == asyncio.run(notebook()) == 7
