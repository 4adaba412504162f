"""ASGI middleware of a reward server: token, size and duration of a request, and how many at a time."""

import asyncio
import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from realgen.serving.wire import WireError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATH = "/health"
"""Needs no token, and is answered whatever else is going on, so that a load balancer can call it."""
MAX_HEADER_BYTES = 16_384
"""Largest header of a request, its path included."""
LARGE = 2**20
"""Bytes from which a body is copied in a thread: meanwhile the other requests are answered."""
_DRAIN_SECONDS = 5.0  # longest time for which the rest of a refused upload is read


class Gate:
    """Answers 401 without the token, 413 for too large a body, 503 when there is too much to do, 504 when it is late.

    litserve's own check of a key is not in constant time, and its timeout does not cover uploads. A body is read whole
    before the server sees it, and never more of it than ``max_bytes``; ``max_bytes_held`` is for all bodies without an
    answer. A slow upload takes no place among ``max_requests``. The ``token`` comes as ``Authorization: Bearer TOKEN``,
    once; None admits every request. ``timeout`` is from the first byte of a request to its answer, in seconds.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str | None,
        max_bytes: int,
        timeout: float,
        max_requests: int = 64,
        max_bytes_held: int = 2**31,
    ) -> None:
        self.app = app
        self.expected = None if token is None else f"Bearer {token}".encode()
        self.max_bytes = max_bytes
        self.timeout = timeout
        self.max_requests = max_requests
        self.max_bytes_held = max_bytes_held
        self.requests = 0
        """Complete requests without an answer."""
        self.bytes_held = 0
        """Size of the bodies, complete or not, of requests without an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request by the ASGI protocol."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answering, more = False, True

        async def watched_receive() -> Mapping[str, Any]:
            nonlocal more
            message = await receive()
            more = message.get("more_body", False)
            return message

        async def watched_send(message: Mapping[str, Any]) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            async with asyncio.timeout(self.timeout):
                self._check_header(scope)
                if scope["path"] == OPEN_PATH:
                    await self.app(scope, watched_receive, watched_send)
                else:
                    await self._admit(scope, watched_receive, watched_send)
        except WireError as refusal:
            await _answer(send, refusal.status, str(refusal), rest=receive if more else None)
        except TimeoutError:
            if not answering:  # otherwise the client does not read its answer
                await _answer(send, 504, f"no answer within {self.timeout:g} seconds.")

    def _check_header(self, scope: Scope) -> None:
        """Refuse what can be refused before a byte of the body is read."""
        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        size = len(scope["path"]) + len(scope.get("query_string", b"")) + sum(len(n) + len(v) for n, v in headers)
        if size > MAX_HEADER_BYTES:
            raise WireError(f"the header must have at most {MAX_HEADER_BYTES} bytes.", 431)
        if scope["path"] == OPEN_PATH:
            return
        given = [value for name, value in headers if name == b"authorization"]
        # In constant time, so that the duration does not reveal how much of a token was right.
        if self.expected is not None and not (len(given) == 1 and hmac.compare_digest(given[0], self.expected)):
            raise WireError("a valid token is needed: Authorization: Bearer TOKEN.", 401)
        lengths = [value for name, value in headers if name == b"content-length"]
        if lengths and b"transfer-encoding" in dict(headers):  # programs disagree on where such a body ends
            raise WireError("the header must have Content-Length or Transfer-Encoding, got both.", 400)
        self._check_size(max((int(value[:20]) for value in lengths if value.isdigit()), default=0))

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        chunks, more, size = list[bytes](), True, 0
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                chunks.append(message.get("body", b""))
                more = message.get("more_body", False)
                self.bytes_held += len(chunks[-1])
                size += len(chunks[-1])
                self._check_size(size)
                if self.bytes_held > self.max_bytes_held:
                    raise WireError("too many bytes wait for their rewards; try again later.", 503)
            if self.requests >= self.max_requests:
                raise WireError("too many requests wait for their rewards; try again later.", 503)
            self.requests += 1
            try:
                await self.app(scope, _replay(chunks, size, receive), send)
            finally:
                self.requests -= 1
        finally:
            self.bytes_held -= size

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise WireError(f"the body must have at most {self.max_bytes} bytes.", 413)


def _replay(chunks: list[bytes], size: int, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the whole body, which is then kept by its reader only."""

    async def replay() -> Mapping[str, Any]:
        if not chunks:
            return await receive()
        whole = b"".join(chunks) if size < LARGE else await asyncio.to_thread(b"".join, chunks)
        chunks.clear()
        return {"type": "http.request", "body": whole, "more_body": False}

    return replay


async def _answer(send: Send, status: int, detail: str, *, rest: Receive | None = None) -> None:
    """Answer; then read and drop the ``rest`` of the upload, because closing at once would cut off the answer."""
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while rest is not None and (await rest()).get("more_body", False):
                pass
    await send({"type": "http.response.body"})
