"""The gate, spoken to by the ASGI protocol."""

import asyncio
import json

import pytest

from realgen.serving.gate import Gate


async def echo(scope, receive, send):
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message.get("body", b"") + b"!"})


def ask(app, chunks, *, path="/rewards", headers=(), **gate):
    """Status and body of the answer, and how many chunks were read."""
    settings = {"token": None, "max_bytes": 10, "timeout": 5.0} | gate
    waiting, sent = list(chunks), []

    async def receive():
        if not waiting:
            await asyncio.sleep(3600)
        chunk = waiting.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": list(headers)}
    asyncio.run(Gate(app, **settings)(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]), len(chunks) - len(waiting)


def test_a_body_in_pieces_arrives_whole():
    assert ask(echo, [b"ab", b"", b"cd"])[:2] == (200, b"abcd!")


@pytest.mark.attack("server", "a body over its limit")
def test_the_limit_is_the_last_size_that_passes():
    assert ask(echo, [b"12345", b"67890"])[0] == 200
    status, body, _ = ask(echo, [b"12345", b"67890", b"1"])
    assert status == 413
    assert json.loads(body) == {"detail": "the body must have at most 10 bytes."}


@pytest.mark.attack("server", "a length of 5000 digits")
def test_an_announced_size_is_enough_to_refuse():
    assert ask(echo, [b""], headers=[(b"content-length", b"11")])[0] == 413
    assert ask(echo, [b""], headers=[(b"content-length", b"9" * 5000)])[0] == 413
    assert ask(echo, [b"x"], headers=[(b"content-length", b"1")])[0] == 200


@pytest.mark.attack("server", "no token, or a wrong one")
@pytest.mark.parametrize(
    "given", [None, b"", b"Bearer", b"Bearer secre", b"Bearer secret2", b"bearer secret", b"secret"]
)
def test_a_wrong_token_is_refused(given):
    headers = [] if given is None else [(b"authorization", given)]
    status, body, _ = ask(echo, [b"x"], headers=headers, token="secret")
    assert status == 401
    assert b"secret" not in body


def test_the_right_token_opens():
    assert ask(echo, [b"x"], headers=[(b"authorization", b"Bearer secret")], token="secret")[:2] == (200, b"x!")


@pytest.mark.attack("server", "the token, guessed by the time of the answer")
def test_the_token_is_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    ask(echo, [b"x"], headers=[(b"authorization", b"Bearer no")], token="secret")
    assert compared == [(b"Bearer no", b"Bearer secret")]


def test_health_is_open_to_all():
    assert ask(echo, [b""], path="/health", token="secret")[0] == 200


def test_a_server_that_hangs_is_given_up():
    async def hang(scope, receive, send):
        await asyncio.sleep(3600)

    status, body, _ = ask(hang, [b"x"], timeout=0.05)
    assert status == 504
    assert json.loads(body) == {"detail": "no answer within 0.05 seconds."}


@pytest.mark.attack("server", "an upload that never comes")
def test_an_upload_that_never_ends_is_given_up():
    async def receive():
        await asyncio.sleep(3600)

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/rewards", "headers": []}
    asyncio.run(Gate(echo, token=None, max_bytes=10, timeout=0.05)(scope, receive, send))
    assert sent[0]["status"] == 504


@pytest.mark.attack("server", "more requests, or more bytes, than it holds at a time")
@pytest.mark.parametrize(("limits", "said"), [({"max_requests": 2}, "requests"), ({"max_bytes_held": 9}, "bytes")])
def test_what_is_too_much_at_a_time_is_refused_and_counted_until_the_answer(limits, said):
    released = asyncio.Event()

    async def wait(scope, receive, send):
        await receive()
        await released.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(gate, path="/rewards"):
        sent = []

        async def receive():
            return {"type": "http.request", "body": b"1234", "more_body": False}

        async def send(message):
            sent.append(message)

        await gate({"type": "http", "path": path, "headers": []}, receive, send)
        return sent[0]["status"], sent[1]["body"]

    async def run():
        gate = Gate(wait, token=None, max_bytes=10, timeout=5.0, **limits)
        first = [asyncio.ensure_future(ask(gate)) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await ask(gate)
        released.set()
        assert [status for status, _ in await asyncio.gather(*first)] == [200, 200]
        assert (await ask(gate))[0] == 200
        assert (gate.requests, gate.bytes_held) == (0, 0)
        return refused

    status, body = asyncio.run(run())
    assert status == 503
    assert said in json.loads(body)["detail"]


@pytest.mark.attack("server", "a length that is announced and never sent")
def test_bytes_are_counted_as_they_come():
    async def ask(gate):
        async def receive():
            await asyncio.sleep(3600)

        async def send(message):
            pass

        await gate({"type": "http", "path": "/rewards", "headers": [(b"content-length", b"10")]}, receive, send)

    async def run():
        gate = Gate(echo, token=None, max_bytes=10, timeout=0.2, max_bytes_held=10)
        hanging = [asyncio.ensure_future(ask(gate)) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert gate.bytes_held == 0
        await asyncio.gather(*hanging)

    asyncio.run(run())
