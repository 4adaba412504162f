"""The web process's side of one connection: what it may cost before a request is complete."""

import http
import json
import sys
import time
from asyncio import TimerHandle
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HEADER_SECONDS = 10.0
"""Time in which a connection without a request must send the header of its next one."""
_SPARE_CONNECTIONS = 512
"""Connections beyond ``max_requests`` at which those that keep the server waiting are closed, the longest first."""


class Connection(H11Protocol):
    """HTTP/1.1 by h11, which limits a header to 16 KiB; httptools, uvicorn's default, takes one of any length.

    From the header of a request to the end of its answer there are ``request_seconds``. Connections are surely kept for
    ``max_requests`` of them. The other arguments are uvicorn's.
    """

    def __init__(self, *arguments: Any, request_seconds: float, max_requests: int, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._request_seconds = request_seconds
        self._max_connections = max_requests + _SPARE_CONNECTIONS
        self._request: RequestResponseCycle | None = None
        self._since = 0.0
        self._timer: TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: Any) -> None:
        """Accept a connection, in place of one that keeps the server waiting if there are too many."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self._max_connections:
            every = [each for each in self.connections if isinstance(each, Connection)]
            waiting = [each for each in every if each.conn.their_state is not h11.DONE]
            longest = min(waiting, key=lambda each: (each._request is not None, each._since))  # uploads last
            self.connections.discard(longest)
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came, unless the answer has been an error of HTTP itself."""
        if not self._refused:
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, 431 for too large a header; what follows is dropped, so that the answer arrives."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # as if the client had gone: the application must not answer, too
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = json.dumps({"detail": f"{http.HTTPStatus(status).phrase}: {msg}"}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.write_eof()

    def _watch(self) -> None:
        """Limit the time of each request, and of each wait for one, however often a few bytes come."""
        active = self.cycle is not None and not self.cycle.response_complete and not self._refused
        request = self.cycle if active else None
        if self._timer is not None:
            if request is self._request:
                return
            self._timer.cancel()
        self._request, self._since = request, time.monotonic()  # uvloop's clock stands still within a round
        seconds = HEADER_SECONDS if request is None else self._request_seconds
        self._timer = self.loop.call_later(seconds, self.transport.abort)
