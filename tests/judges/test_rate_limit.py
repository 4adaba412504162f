"""Headers of rate limits, as several services write them, and the gate that obeys them."""

import asyncio
import email.utils
import time

import pytest

from realgen.judges.rate_limit import RateGate, parse_duration, told_to_wait

DATE = email.utils.formatdate(1000.0, usegmt=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("1d", 86400.0),
        ("7.66s", 7.66),
        ("30", 30.0),
        (" 2S ", 2.0),
        ("", None),
        ("soon", None),
        ("-1s", None),
        ("1x", None),
        ("s", None),
        ("nan", None),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": DATE}, 10.0),
        ({"retry-after": "later"}, 0.0),
        ({"retry-after": f"Mon, 01 Jan {9**20} 00:00:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "6m0s"}, 0.0),
        ({"x-ratelimit-remaining-tokens": "99", "x-ratelimit-reset-tokens": "2s"}, 2.0),
        ({"x-ratelimit-remaining-tokens": "100", "x-ratelimit-reset-tokens": "2s"}, 0.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2s", "retry-after": "5"}, 5.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "whenever"}, 0.0),
        ({"x-ratelimit-remaining-requests": "many"}, 0.0),
    ],
)
def test_waits(headers, seconds):
    assert told_to_wait(headers, now=990.0, tokens=100) == seconds


def test_a_limited_answer_waits_for_the_resets_even_if_something_is_left():
    headers = {"x-ratelimit-remaining-tokens": "50", "x-ratelimit-reset-tokens": "4s"}
    assert told_to_wait(headers, now=0.0, limited=True) == 4.0
    assert told_to_wait(headers, now=0.0) == 0.0
    assert told_to_wait({**headers, "retry-after": "1"}, now=0.0, limited=True) == 1.0


def test_a_date_in_the_past_is_now():
    assert told_to_wait({"retry-after": DATE}, now=2000.0) == 0.0


def test_all_wait_at_a_closed_gate_and_nobody_at_an_open_one():
    async def pass_through():
        gate = RateGate(jitter=0.0)
        await asyncio.wait_for(gate.wait(), 5)
        begin = time.monotonic()
        gate.close(0.2)
        gate.close(0.01)  # a shorter wait does not open it earlier
        await asyncio.gather(*(gate.wait() for _ in range(5)))
        return time.monotonic() - begin

    assert asyncio.run(pass_through()) >= 0.2
