"""What strangers can do to the web process with bytes: headers, idle connections, framing, slow bodies."""

import contextlib
import json
import logging
import socket
import threading
import time

import pytest

from tests.helpers.web_process import post, read_all, web_process

START = b"POST /rewards HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr("realgen.serving.connection.HEADER_SECONDS", 1.0)
    monkeypatch.setattr("realgen.serving.gate._DRAIN_SECONDS", 1.0)


def status(answer):
    return int(answer.split()[1]) if answer else None


def detail(answer):
    return json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]


def seconds_of_trickle(connection, piece):
    """Seconds until the server cuts off a connection that sends a piece every 50 ms; 20 if it does not."""
    begin = time.monotonic()
    while (seconds := time.monotonic() - begin) < 20:
        try:
            connection.sendall(piece)
        except OSError:
            break
        time.sleep(0.05)
    return seconds


def test_a_request_is_answered():
    with web_process() as web:
        answer = web.ask(post(b"abc"))
    assert (status(answer), answer[-3:]) == (200, b"abc")


@pytest.mark.attack("server", "a header, a path or a value without end")
@pytest.mark.parametrize(
    "piece", [b"a" * 997 + b"\r\n b", b"Name: value\r\n", b"a" * 1000], ids=["line", "lines", "bytes"]
)
@pytest.mark.parametrize("start", [START, b"GET /health?", START + b"X: "], ids=["header", "path", "value"])
def test_a_header_without_end_costs_nothing(start, piece):
    with web_process() as web, web.connect(start) as attacker:
        begin = time.monotonic()
        with contextlib.suppress(OSError):  # the server stops listening at some point
            for _ in range(2_000_000 // len(piece)):
                attacker.sendall(piece)
        answer = read_all(attacker)
        assert status(answer) in (400, 431)
        assert detail(answer).isprintable()
        assert web.health()[0] == 200
        assert time.monotonic() - begin < 10
        assert web.num_connections() <= 1


@pytest.mark.attack("server", "a header of 70 kB that comes at once")
@pytest.mark.parametrize("path", [b"/rewards", b"/health"])
def test_a_large_header_is_refused(path):
    with web_process() as web:
        answer = web.ask(
            b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"
        )
        assert status(answer) == 431
        many = b"".join(b"X-%d: y\r\n" % i for i in range(10_000))
        answer = web.ask(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + many + b"\r\n")
        assert status(answer) == 431


@pytest.mark.attack("server", "200 connections that have sent nothing, or half a header")
@pytest.mark.parametrize("sent", [b"", START, b"\r\n"])
def test_idle_connections_lock_nobody_out_and_are_closed(sent):
    with web_process(max_requests=8) as web, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(web.connect(sent)) for _ in range(200)]
        assert web.health()[0] == 200
        assert status(web.ask(post(b"abc"))) == 200
        for connection in idle:
            assert status(read_all(connection)) in (None, 400)  # comes to an end
            connection.close()
        while web.num_connections():
            time.sleep(0.01)


@pytest.mark.attack("server", "a header that trickles, byte by byte")
@pytest.mark.parametrize("first", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "second"])
def test_a_header_that_trickles_is_cut_off(first):
    with web_process() as web, web.connect(first) as attacker:
        assert seconds_of_trickle(attacker, b"a") < 10


@pytest.mark.attack("server", "more connections than the process may have")
def test_the_oldest_idle_connection_makes_room(monkeypatch):
    monkeypatch.setattr("realgen.serving.connection._SPARE_CONNECTIONS", 10)
    monkeypatch.setattr("realgen.serving.connection.HEADER_SECONDS", 60.0)
    with web_process(max_requests=2) as web, contextlib.ExitStack() as stack:
        upload = stack.enter_context(web.connect(START + b"Content-Length: 3\r\n\r\na"))
        assert web.health()[0] == 200  # the upload's header has been read
        accepting = threading.Event()
        web.server.servers[0].get_loop().call_soon_threadsafe(accepting.wait)  # then all come in one round
        idle = [stack.enter_context(web.connect()) for _ in range(40)]
        last = stack.enter_context(web.connect(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        accepting.set()
        assert status(read_all(last)) == 200
        assert web.num_connections() <= 12
        assert read_all(idle[0]) == b""
        upload.sendall(b"bc")  # was not closed: it is on with a request
        assert upload.recv(1000).endswith(b"abc")


@pytest.mark.attack("server", "bodies that trickle, more of them than places")
def test_slow_bodies_take_no_place_and_are_given_up():
    with web_process(max_requests=2, timeout=1.0, request_seconds=2.0) as web, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(web.connect(START + b"Content-Length: 9\r\n\r\na")) for _ in range(20)]
        assert status(web.ask(post(b"abc"))) == 200
        assert all(status(read_all(connection)) == 504 for connection in slow)


@pytest.mark.attack("server", "a body that trickles on after its refusal")
def test_what_trickles_on_after_the_answer_is_cut_off():
    with web_process(token="secret") as web, web.connect(START + b"Transfer-Encoding: chunked\r\n\r\n") as attacker:
        assert status(attacker.recv(1000)) == 401
        assert seconds_of_trickle(attacker, b"1\r\na\r\n") < 10


@pytest.mark.parametrize("header", ["Connection: close", "Connection: keep-alive"])
def test_a_refusal_reaches_a_client_that_reads_only_after_its_upload(header):
    large = post(b"a" * 20_000_000).replace(b"Connection: close", header.encode())
    with web_process(token="secret") as web, web.connect(large) as client:
        assert status(client.recv(1000)) == 401


@pytest.mark.attack("server", "a chunked body without end")
@pytest.mark.parametrize(
    "chunk", [b"1\r\na\r\n", b"2710\r\n" + b"a" * 10_000 + b"\r\n", b"1;" + b"x" * 99 + b"\r\na\r\n"]
)
def test_a_chunked_body_without_end_is_refused(chunk):
    with web_process(max_bytes=10_000) as web, web.connect(START + b"Transfer-Encoding: chunked\r\n\r\n") as attacker:
        answer = waiting = b""
        attacker.setblocking(False)
        begin = time.monotonic()
        while not answer and time.monotonic() - begin < 30:
            waiting = waiting or chunk * 100
            with contextlib.suppress(BlockingIOError):
                waiting = waiting[attacker.send(waiting) :]
            with contextlib.suppress(BlockingIOError):
                answer = attacker.recv(1000)
        assert status(answer) == 413
        assert web.health()[0] == 200


FRAMING = {
    "two lengths": (b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "two equal lengths, in a list": (b"Content-Length: 3, 4\r\n\r\nabcd", 400),
    "length and chunks": (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "an unknown transfer encoding": (b"Transfer-Encoding: gzip\r\n\r\nabc", 501),
    "two transfer encodings": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 501),
    "a negative length": (b"Content-Length: -1\r\n\r\n", 400),
    "a length of many digits": (b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    "a length that is no number": (b"Content-Length: 0x3\r\n\r\nabc", 400),
    "a space before a colon": (b"Content-Length : 3\r\n\r\nabc", 400),
    "a bare carriage return": (b"X: a\rb\r\n\r\n", 400),
    "a null byte": (b"X: a\0b\r\n\r\n", 400),
    "a chunk that is none": (b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "a chunk size without end": (b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 50_000, 400),
    "an upgrade to WebSocket": (b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", 200),
}


@pytest.mark.attack("server", "framing: two lengths, length and chunks, broken chunks, WebSocket and the like")
@pytest.mark.parametrize("case", FRAMING)
def test_framing_that_means_two_things_is_refused(case, caplog):
    caplog.set_level(logging.DEBUG)
    sent, expected = FRAMING[case]
    with web_process() as web:
        answer = web.ask(START + sent)
        if expected == 400:
            assert status(answer) in (400, 431), answer
            assert detail(answer).isprintable()
        else:
            assert status(answer) == expected
        assert web.health()[0] == 200
    assert "Traceback" not in caplog.text


@pytest.mark.attack("server", "a broken chunk after its answer")
def test_what_breaks_after_the_answer_leaves_no_traceback(caplog):
    with web_process(token="secret") as web, web.connect(START + b"Transfer-Encoding: chunked\r\n\r\n") as attacker:
        assert status(attacker.recv(1000)) == 401
        attacker.sendall(b"xyz\r\n")
        assert read_all(attacker) == b""
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.attack("server", "1000 pipelined requests, whose answers are not read")
def test_pipelined_requests_are_answered_in_turn():
    with web_process() as web:
        one = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        assert web.ask(one * 999 + one[:-2] + b"Connection: close\r\n\r\n").count(b"HTTP/1.1 200") == 1000
        with web.connect() as attacker:
            attacker.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(20_000):
                    attacker.send(one)
            assert web.health()[0] == 200


@pytest.mark.attack("server", "a client that goes in the middle of its body")
def test_half_a_body_is_not_scored(monkeypatch):
    asked = []

    async def application(scope, receive, send):
        asked.append(scope["path"])

    monkeypatch.setattr("tests.helpers.web_process.echo", application)
    with web_process() as web:
        with web.connect(START + b"Content-Length: 9\r\n\r\nabc") as attacker:
            attacker.shutdown(socket.SHUT_WR)
            read_all(attacker)
        while web.num_connections():
            time.sleep(0.01)
    assert asked == []


@pytest.mark.attack("server", "two Authorization headers, one of them right")
@pytest.mark.parametrize(
    "other", ["Authorization: Bearer no", "authorization: Bearer secret", "AUTHORIZATION: Basic x"]
)
def test_two_authorizations_are_refused(other):
    right = "Authorization: Bearer secret"
    with web_process(token="secret") as web:
        assert status(web.ask(post(b"abc", right))) == 200
        assert status(web.ask(post(b"abc", right, other))) == 401
        assert status(web.ask(post(b"abc", other, right))) == 401


@pytest.mark.attack("server", "the token in the path, in a cookie, in the body")
def test_a_token_elsewhere_opens_nothing(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with web_process(token="secret") as web:
        assert status(web.ask(post(b"Bearer secret", "Cookie: token=secret"))) == 401
        path = post(b"abc").replace(b"/rewards", b"/rewards?token=secret&access_token=secret")
        assert status(web.ask(path)) == 401
    assert "secret" not in caplog.text + "".join(capfd.readouterr())
