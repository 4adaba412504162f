"""A server on loopback that answers as a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HostileServer(ThreadingHTTPServer):
    """Keeps what it was asked, and leaves the answer to ``answer(handler, number of the request)``."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Any, int], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.released = threading.Event()
        """Set at the end, for answers that hang."""
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: HostileServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.body = body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.server.answer(self, number)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def hostile_server(answer: Callable[[Any, int], None]) -> Iterator[HostileServer]:
    server = HostileServer(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def say(status: int, body: bytes | dict[str, Any], **headers: str) -> Callable[[Any, int], None]:
    """An answer that is sent whole."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(handler: Any, _: int) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def hang(handler: Any, _: int) -> None:
    """Take the request, and never answer."""
    handler.server.released.wait()
    handler.close_connection = True


def die(handler: Any, _: int) -> None:
    """Promise a long answer, and break off in the middle."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"rewards": [0.5')
    handler.wfile.flush()
    handler.close_connection = True


def drip(handler: Any, _: int) -> None:
    """Send an answer byte by byte, each well within any timeout of a read."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        while not handler.server.released.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:
        pass
    handler.close_connection = True
