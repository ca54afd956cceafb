"""A local HTTP server that answers each path as a test has written down, faults included."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Respond = Callable[[BaseHTTPRequestHandler], None]


class Request(NamedTuple):
    path: str
    headers: dict[str, str]


@dataclass
class ScriptedServer:
    """`answers[path]` are given one after the other, the last one again and again."""

    url: str
    answers: dict[str, list[Respond]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def asked(self, path: str) -> int:
        """Return how often `path` was asked for."""
        return sum(request.path == path for request in self.requests)


@contextmanager
def scripted_server(answers: dict[str, list[Respond]]) -> Iterator[ScriptedServer]:
    """Serve `answers` on a free port of the loopback interface."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # head and body are sent apart, and the second would wait 40 ms for the first to be heard of
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            script.requests.append(Request(self.path, dict(self.headers)))
            given = script.answers[self.path]
            given[min(script.asked(self.path), len(given)) - 1](self)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script = ScriptedServer(f"http://127.0.0.1:{server.server_port}", answers)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()


def answer(status: int = 200, body: bytes = b"[1]", **headers: str) -> Respond:
    """Answer with `status` and `body`; in the names of headers, `_` stands for `-`."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def stop_halfway(handler: BaseHTTPRequestHandler) -> None:
    """Answer with a body that ends before its announced length."""
    answer(200, b'[{"id":1},', Content_Length="100")(handler)
    handler.close_connection = True


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Never answer."""
    handler.rfile.read(1)
    handler.close_connection = True


def fall_silent(handler: BaseHTTPRequestHandler) -> None:
    """Begin an answer and never go on."""
    answer(200, b"[", Content_Length="1000")(handler)
    hang(handler)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Answer with single bytes for ever."""
    answer(200, b"[", Content_Length="1000000")(handler)
    with suppress(OSError):
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)
    handler.close_connection = True
