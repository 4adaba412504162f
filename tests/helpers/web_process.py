"""The web process of a reward server in a thread: its connections and its gate, before an application that echoes."""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from realgen.serving.connection import Connection
from realgen.serving.gate import Gate

PATIENCE = 30.0
"""Longest wait of a socket, in seconds."""


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the body, ``/health`` with ``ok``; one that begins with ``wait`` first waits for ever."""
    body = b"ok" if scope["path"] == "/health" else (await receive())["body"]
    while body.startswith(b"wait"):
        if (await receive())["type"] == "http.disconnect":
            return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class WebProcess:
    """Its port, and connections to it."""

    def __init__(self, port: int, server: uvicorn.Server) -> None:
        self.port = port
        self.server = server

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(sent)
        return connection

    def ask(self, sent: bytes) -> bytes:
        """Send, and return all that comes until the server closes; empty if it resets the connection."""
        with self.connect() as connection:
            with suppress(OSError):  # closed already; what it has answered can still be read
                connection.sendall(sent)
            return read_all(connection)

    def health(self) -> tuple[int, float]:
        """Status of /health, and the seconds until it came."""
        begin = time.monotonic()
        with self.connect(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as connection:
            answer = read_all(connection)
        return int(answer.split()[1]), time.monotonic() - begin

    def num_connections(self) -> int:
        return len(self.server.server_state.connections)


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the end of a connection."""
    content = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            content += piece
    return content


def post(body: bytes, *headers: str) -> bytes:
    """A request to ``/rewards``, after which the connection closes."""
    lines = ["POST /rewards HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@contextmanager
def web_process(*, request_seconds: float = 60.0, max_requests: int = 64, **gate: Any) -> Iterator[WebProcess]:
    """Run it as ``realgen.serving.server`` does."""
    settings = {"token": None, "max_bytes": 100_000, "timeout": 30.0, "max_requests": max_requests} | gate
    protocol = functools.partial(Connection, request_seconds=request_seconds, max_requests=max_requests)
    config = uvicorn.Config(Gate(echo, **settings), port=0, log_level="error", http=protocol, ws="none", lifespan="off")
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield WebProcess(listener.getsockname()[1], server)
    finally:
        server.force_exit = server.should_exit = True
        thread.join(PATIENCE)
        listener.close()
    assert not thread.is_alive()
