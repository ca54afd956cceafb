"""A TCP proxy between a client and a local server that fails as networks fail, HTTP and gRPC alike.

Modes, which may change while connections are open (they feel it too):

    ok           everything passes
    refuse       nothing listens
    reset        each connection is reset at once
    blackhole    connections are accepted and never answered
    cut          reset after `cut_after` bytes of the answer
    lost_reply   the request reaches the server, its answer is dropped and the connection reset
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time

from local_gcp.servers import hold_port

MODES = ("ok", "refuse", "reset", "blackhole", "cut", "lost_reply")
CHUNK = 65536


class FaultProxy:
    """Listens on `port` of 127.0.0.1 and passes on to `target_port`."""

    def __init__(self, target_port: int | None, mode: str = "ok") -> None:
        assert target_port is not None
        self.target_port = target_port
        # seconds that each piece of an answer is held back
        self.delay = 0.0
        self.cut_after = 0
        # so that nobody else is given it while nothing listens
        self._held = hold_port(0)
        self.port: int = self._held.getsockname()[1]
        if sys.platform != "linux":
            self._held.close()
        self._mode = "refuse"
        self._sockets: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._switching = threading.Lock()
        self._listen()
        self.mode = mode

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    @property
    def mode(self) -> str:
        """How it fails just now."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        assert mode in MODES, mode
        self._mode = mode
        if mode != "ok":
            for one in list(self._sockets):
                self._reset(one)
        # threads of the code under test may switch it at the same moment
        with self._switching:
            if mode == "refuse" and self._listener:
                # shutdown first: close alone does not wake the thread in accept()
                self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
                self._listener = None
            elif mode != "refuse" and self._listener is None:
                self._listen()

    def close(self) -> None:
        """Stop listening, and reset what is open."""
        self.mode = "refuse"
        self._held.close()

    def _reset(self, one: socket.socket) -> None:
        self._sockets.discard(one)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # wakes the thread in recv() on this socket, which would keep it open after close()
            one.shutdown(socket.SHUT_RD)
        except OSError:
            pass
        one.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._mode in ("refuse", "reset"):
            self._reset(client)
            return
        self._sockets.add(client)
        if self._mode == "blackhole":
            return
        try:
            server = socket.create_connection(("127.0.0.1", self.target_port))
        except OSError:
            self._reset(client)
            return
        self._sockets.add(server)
        threading.Thread(target=self._answer, args=(server, client), daemon=True).start()
        self._ask(client, server)

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while piece := client.recv(CHUNK):
                server.sendall(piece)
        except OSError:
            pass
        self._reset(client)
        self._reset(server)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        try:
            while piece := server.recv(CHUNK):
                time.sleep(self.delay)
                passed += len(piece)
                if self._mode == "lost_reply" or (self._mode == "cut" and passed > self.cut_after):
                    break
                client.sendall(piece)
        except OSError:
            pass
        self._reset(client)
        self._reset(server)
