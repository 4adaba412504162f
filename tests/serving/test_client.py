"""The client against servers that answer wrongly, late, or not at all."""

import asyncio
import contextlib
import logging
import math
import socket
import time
import traceback

import pytest

from realgen.remote_calls import RefusedError, UnavailableError
from realgen.serving import ConnectionSettings, RewardClient
from tests.helpers.hostile_server import die, drip, hang, hostile_server, say

GOOD = say(200, {"rewards": [0.25, None]})
QUICK = {"backoff": 0.001, "timeout": 5.0, "retries": 2}


def ask(*urls, token=None, **connection):
    client = RewardClient(urls, ConnectionSettings(**QUICK | connection), token=token)
    return client, asyncio.run(rewards_of(client))


async def rewards_of(client):
    async with client.http() as http:
        return await client.ask(http, b"body", "application/json", 2, low=0.0, high=1.0)


def test_a_request_arrives_as_it_was_sent():
    with hostile_server(GOOD) as server:
        client, rewards = ask(f"{server.url}/", token="secret")
    assert rewards[0] == 0.25
    assert math.isnan(rewards[1])
    ((headers, body),) = server.requests
    assert body == b"body"
    assert (headers["content-type"], headers["authorization"]) == ("application/json", "Bearer secret")
    assert client.num_attempts == 1


def test_without_a_token_none_is_sent():
    with hostile_server(GOOD) as server:
        ask(server.url)
    assert "authorization" not in server.requests[0][0]


@pytest.mark.attack("answers of servers", "wrong counts, values, statuses and types, no HTTP")
@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (say(200, {"rewards": [0.5]}), "must have 2 rewards, got 1"),
        (say(200, b'{"rewards": [0.5, NaN]}'), "NaN"),
        (say(200, {"rewards": [0.5, 1.5]}), "a reward must be a number from 0.0 to 1.0"),
        (say(200, b"\x80\x04\x95garbage"), "no JSON"),
        (say(200, b"0" * 100_000), "at most"),
        (say(204, b""), "answered 204"),
        (say(307, b"", Location="http://127.0.0.1:1/rewards"), "answered 307"),
        (say(404, b"<html>"), "answered 404"),
        (say(429, {"detail": "too many"}), "answered 429: too many"),
        (say(500, {"detail": "out of memory"}), "answered 500: out of memory"),
        (say(503, {"detail": ["no", "text"]}), "answered 503"),
        (say(200, b'{"rewards": [0.5, ' + b"9" * 5000 + b"]}"), "at most"),
        (say(200, b'{"rewards": [0.5, ' + b"9" * 400 + b"]}"), "a reward must be a number"),
        (say(200, b'{"rewards": [0.5, true]}'), "got bool"),
        (say(200, b"[" * 4000), "no JSON"),
        (die, "RemoteProtocolError"),
    ],
)
def test_a_wrong_answer_is_tried_again_and_never_believed(wrong, cause):
    with hostile_server(wrong) as server:
        with pytest.raises(UnavailableError, match=cause) as error:
            ask(server.url)
        assert server.url in str(error.value)
        assert str(error.value).isprintable()
    assert len(server.requests) == 3


@pytest.mark.parametrize("wrong", [say(500, b""), say(200, {"rewards": [0.5]}), die])
def test_a_server_that_recovers_is_believed_again(wrong):
    with hostile_server(lambda handler, number: (wrong if number < 2 else GOOD)(handler, number)) as server:
        client, rewards = ask(server.url)
    assert rewards[0] == 0.25
    assert client.num_attempts == len(server.requests) == 3


@pytest.mark.attack("answers of servers", "none, or one that trickles")
@pytest.mark.parametrize("slow", [hang, drip])
def test_the_deadline_is_for_the_whole_answer(slow):
    with hostile_server(slow) as server:
        start = time.monotonic()
        with pytest.raises(UnavailableError, match=r"no answer within 0\.3 s"):
            ask(server.url, timeout=0.3, retries=0)
        assert time.monotonic() - start < 4


@pytest.mark.attack("answers of servers", "one that is packed")
def test_a_packed_answer_is_not_unpacked():
    with hostile_server(say(200, b"\x1f\x8b" + bytes(50), Content_Encoding="gzip")) as server:
        with pytest.raises(UnavailableError, match="no JSON"):
            ask(server.url)
        assert server.requests[0][0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [400, 401, 413, 422])
def test_a_refusal_is_not_repeated(status):
    with hostile_server(say(status, {"detail": "no"})) as server, pytest.raises(RefusedError) as error:
        ask(server.url)
    assert str(error.value) == f"{server.url} refuses the request: it answered {status}: no"
    assert len(server.requests) == 1


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_nobody_there():
    with pytest.raises(UnavailableError, match="ConnectError"):
        ask(f"http://127.0.0.1:{free_port()}", retries=1)


def test_another_replica_steps_in():
    with hostile_server(GOOD) as server:
        client, rewards = ask(f"http://127.0.0.1:{free_port()}", server.url)
    assert rewards[0] == 0.25
    assert client.num_attempts == 2


def test_a_replica_that_fails_is_left_alone():
    with hostile_server(say(500, b"")) as bad, hostile_server(GOOD) as good:
        client = RewardClient(
            [bad.url, good.url], ConnectionSettings(**QUICK, failures_to_rest=2, rest_seconds=3600.0), token=None
        )
        for _ in range(8):
            assert asyncio.run(rewards_of(client))[0] == 0.25
    assert len(bad.requests) == 2
    assert len(good.requests) == 8


def test_when_all_rest_the_answer_comes_at_once():
    with hostile_server(say(500, b"")) as server:
        client = RewardClient([server.url], ConnectionSettings(**QUICK, failures_to_rest=1, rest_seconds=3600.0))
        for _ in range(2):
            with pytest.raises(UnavailableError):
                asyncio.run(rewards_of(client))
        with pytest.raises(UnavailableError, match="all 1 replicas failed just before"):
            asyncio.run(rewards_of(client))
    assert len(server.requests) == 1


def test_a_resting_replica_is_waited_for_and_that_is_no_attempt():
    with hostile_server(lambda handler, number: (say(500, b"") if number < 2 else GOOD)(handler, number)) as server:
        settings = ConnectionSettings(**QUICK | {"retries": 2}, failures_to_rest=1, rest_seconds=0.3)
        client = RewardClient([server.url], settings)
        assert asyncio.run(rewards_of(client))[0] == 0.25
    assert client.num_attempts == len(server.requests) == 3


def test_the_last_failure_is_named_while_all_rest():
    with hostile_server(say(500, {"detail": "out of memory"})) as server:
        with pytest.raises(UnavailableError, match=r"last failure: .* answered 500: out of memory \(1 attempts\)"):
            ask(server.url, failures_to_rest=1, rest_seconds=3600.0)
        assert len(server.requests) == 1


def test_a_server_is_asked_again_when_it_says():
    times = []

    def answer(handler, number):
        times.append(time.monotonic())
        (say(503, b"", Retry_After="0.4") if number == 0 else GOOD)(handler, number)

    with hostile_server(answer) as server:
        assert ask(server.url)[1][0] == 0.25
    assert times[1] - times[0] >= 0.4


def test_another_replica_is_asked_meanwhile():
    with hostile_server(say(429, b"", Retry_After="3600")) as busy, hostile_server(GOOD) as free:
        client = RewardClient([busy.url, free.url], ConnectionSettings(**QUICK))
        start = time.monotonic()
        for _ in range(6):
            assert asyncio.run(rewards_of(client))[0] == 0.25
        assert time.monotonic() - start < 4
    assert len(busy.requests) == 1


def test_a_wait_beyond_max_wait_is_a_refusal():
    with hostile_server(say(429, b"", Retry_After="7200")) as server:
        with pytest.raises(RefusedError, match="reward server: asks to wait 7200 s, longer than max_wait=900"):
            ask(server.url)
        assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host/?x=1"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match="urls must look like"):
        RewardClient([url], ConnectionSettings())


def test_no_server_is_refused():
    with pytest.raises(ValueError, match="at least one server"):
        RewardClient([], ConnectionSettings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0.0),
        ("timeout", math.inf),
        ("retries", -1),
        ("backoff", -1.0),
        ("max_backoff", -1.0),
        ("max_wait", math.nan),
        ("concurrency", 0),
        ("failures_to_rest", 0),
        ("rest_seconds", math.nan),
    ],
)
def test_the_message_names_the_setting(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*got"):
        ConnectionSettings(**{name: value})


def raw(content):
    """An answer that may be no HTTP."""

    def answer(handler, _):
        handler.wfile.write(content)
        handler.close_connection = True

    return answer


SECRET = "tk-correct-horse-battery-staple"


@pytest.mark.attack("answers of servers", "the token sent back")
@pytest.mark.parametrize(
    "echo",
    [
        say(401, {"detail": f"no such token: {SECRET}"}),
        say(500, {"detail": "x" * 290 + SECRET}),
        say(500, {"detail": f"a\n\x1b[31m{SECRET}"}),
        say(500, b'{"detail": "\\u0074k-correct-horse-battery-staple"}'),
        say(200, {"rewards": [0.5, SECRET]}),
        say(200, {"rewards": SECRET}),
        say(200, {SECRET: [0.5, 0.5]}),
        say(200, SECRET.encode()),
        say(307, b"", Location=f"http://127.0.0.1:1/{SECRET}"),
        say(503, b"", Retry_After=SECRET),
        raw(SECRET.encode() + b"\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + SECRET.encode() + b" x\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + SECRET.encode() + b"\r\n\r\n"),
    ],
)
def test_the_token_is_in_no_message_and_no_traceback(echo, caplog):
    caplog.set_level(logging.INFO)
    with hostile_server(echo) as server, pytest.raises((UnavailableError, RefusedError)) as error:
        ask(server.url, token=SECRET)
    assert str(error.value).isprintable()
    shown = "".join(traceback.format_exception(error.value)) + caplog.text
    assert not [SECRET[i : i + 12] for i in range(len(SECRET) - 11) if SECRET[i : i + 12] in shown]


@pytest.mark.attack("answers of servers", "a redirect, of each kind, here and elsewhere")
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
def test_no_redirect_is_followed(status):
    with hostile_server(GOOD) as elsewhere:
        for target in (f"{elsewhere.url}/rewards", "//127.0.0.1/rewards", "/rewards", "/other", "file:///etc/passwd"):
            with hostile_server(say(status, b"", Location=target)) as server:
                with pytest.raises(UnavailableError, match=f"answered {status}"):
                    ask(server.url, token="secret", retries=0)
                assert len(server.requests) == 1
    assert elsewhere.requests == []


@pytest.mark.attack("answers of servers", "one without end: in its body, chunks, header or interim answers")
@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b" " * 1000),
        (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + b" " * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10),
    ],
)
def test_an_answer_without_end_is_left(start, piece):
    def answer(handler, _):
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.wfile.write(start)
            while not handler.server.released.is_set():
                handler.wfile.write(piece)

    with hostile_server(answer) as server, pytest.raises(UnavailableError):
        ask(server.url, retries=0, timeout=2.0)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@host:8000",
        "http://hunter2@host",
        "https://host/?token=hunter2",
        "http://host/#hunter2",
        "me:hunter2@host",
        "ftp://me:hunter2@host",
        "http://me:hunter2@[host",
    ],
)
def test_no_secret_belongs_into_an_address(url):
    with pytest.raises(ValueError, match=r"^urls must") as error:
        RewardClient([url], ConnectionSettings())
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://host:99999", "http://host:x", "http://[::1", "http://ho\nst", "http://ho st", "http://host:0"]
)
def test_an_address_that_no_server_can_have_is_refused_at_once(url):
    with pytest.raises(ValueError, match="urls must look like http://host:port, got") as error:
        RewardClient([url], ConnectionSettings())
    assert str(error.value).isprintable()
