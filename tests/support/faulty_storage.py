"""Cloud Storage that answers 412, 429, 500 or nothing when a test says so, before a real one."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# a status to answer with, or one of these
LOST_REQUEST = "the request does not arrive, and nothing is answered"
LOST_REPLY = "the request is served, and its answer is lost"
HANGS = "nothing is answered for as long as anybody waits"

Fault = int | str | None


class FaultyStorage:
    """Passes requests on to `target_port`, but for those in which `judge` sees a fault."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.url = ""
        self.requests: list[str] = []
        self.is_closed = threading.Event()
        # called with method and address
        self.judge: Callable[[str, str], Fault] = lambda method, address: None


@contextmanager
def faulty_storage(target_port: int) -> Iterator[FaultyStorage]:
    storage = FaultyStorage(target_port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # head and body are sent apart, and the second would wait 40 ms for the first to be heard of
        disable_nagle_algorithm = True

        def do_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            storage.requests.append(f"{self.command} {self.path}")
            fault = storage.judge(self.command, self.path)
            if fault == HANGS:
                storage.is_closed.wait(300)
            if fault in (HANGS, LOST_REQUEST):
                self.close_connection = True
                return
            if isinstance(fault, int):
                self.reply(fault, {}, b'{"error": {"message": "as the test asks"}}')
                return
            connection = http.client.HTTPConnection("127.0.0.1", storage.target_port, timeout=30)
            # the test may have killed what stands behind
            try:
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
            except OSError:
                self.close_connection = True
                return
            finally:
                connection.close()
            if fault == LOST_REPLY:
                self.close_connection = True
                return
            self.reply(answer.status, dict(answer.getheaders()), content)

        do_GET = do_POST = do_PUT = do_DELETE = do_any  # noqa: N815

        def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]
    storage.port = server.server_port
    storage.url = f"http://127.0.0.1:{storage.port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield storage
    finally:
        storage.is_closed.set()
        server.shutdown()
        server.server_close()
