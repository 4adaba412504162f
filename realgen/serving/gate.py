"""ASGI middleware of a reward server: token, size and duration of a request."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATH = "/health"
"""Needs no token, so that a load balancer can call it."""
_DRAIN_SECONDS = 5.0
"""Time for which the rest of a refused upload is read and dropped; closing at once would cut off the answer."""


class Gate:
    """Answers 401 without the token, 413 for too large a body, and 504 when the server takes too long.

    litserve's own check of a key is not in constant time, and its timeout does not cover uploads. A body is read whole
    before the server sees it, and never more of it than allowed.

    Args:
        app: The application behind.
        token: Must come as ``Authorization: Bearer TOKEN``; None admits every request.
        max_bytes: Largest body.
        timeout: Seconds from the first byte of a request to its answer.
    """

    def __init__(self, app: App, *, token: str | None, max_bytes: int, timeout: float) -> None:
        self.app = app
        self.expected = None if token is None else f"Bearer {token}".encode()
        self.max_bytes = max_bytes
        self.timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection by the ASGI protocol."""
        if scope["type"] != "http" or scope["path"] == OPEN_PATH:
            await self.app(scope, receive, send)
            return
        answering = False

        async def watched_send(message: Mapping[str, Any]) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            async with asyncio.timeout(self.timeout):
                await self._admit(scope, receive, watched_send)
        except TimeoutError:
            if answering:
                raise
            await _answer(send, 504, f"no answer within {self.timeout:g} seconds.")

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"")
        # In constant time, so that the duration does not reveal how much of a token was right.
        if self.expected is not None and not hmac.compare_digest(given, self.expected):
            await _drain(receive)
            await _answer(send, 401, "a valid token is needed: Authorization: Bearer TOKEN.")
            return
        body = await self._read(headers.get(b"content-length", b""), receive)
        if body is None:
            await _answer(send, 413, f"the body must have at most {self.max_bytes} bytes.")
            return
        waiting = True

        async def replay() -> Mapping[str, Any]:
            nonlocal waiting
            if waiting:
                waiting = False
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        await self.app(scope, replay, send)

    async def _read(self, content_length: bytes, receive: Receive) -> bytes | None:
        """Return the whole body; None if it is too large, which the header may tell before a byte is read."""
        too_large = content_length.isdigit() and int(content_length[:20]) > self.max_bytes
        body, more = bytearray(), True
        while more and not too_large:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            too_large = len(body) > self.max_bytes
        if too_large and more:
            await _drain(receive)
        return None if too_large else bytes(body)


async def _drain(receive: Receive) -> None:
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass  # a client that goes on sending does not want an answer


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
