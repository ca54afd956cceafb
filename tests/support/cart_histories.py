"""A mutable source of carts, the stage run on it as a process, and what its events add up to."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

import near_realtime_ingestion_2 as stage
from ingestion.carts.changes import Cart, signature
from tests.support.forked_stage import start_forked

STAGE = Path(stage.__file__)
KILLED = -9

Document = dict[str, Any]


@dataclass
class Fault:
    """An answer that is none. `declared` is the length that is promised beyond the body's own."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    declared: int = 0
    is_reset: bool = False
    is_hanging: bool = False


class CartsSource:
    """A Fake Store of carts only, in this process: what `carts` holds is what it answers.

    With a `fault`, it answers well `fault_after` times more, and then only with the fault.
    """

    def __init__(self) -> None:
        self.carts: dict[int, Document] = {}
        self.url = ""
        self.requests = 0
        self.fault: Fault | None = None
        self.fault_after = 0
        self.is_closed = threading.Event()

    def put(self, cart_id: int, *lines: tuple[int, int], user: int = 1) -> None:
        self.carts[cart_id] = {
            "id": cart_id,
            "userId": user,
            "date": "2020-03-02T00:00:00.000Z",
            "products": [{"productId": product, "quantity": count} for product, count in lines],
            "__v": 0,
        }

    def mutate(self, dice: random.Random) -> None:
        """Create, change, change back, rewrite or delete a few carts; two always stay."""
        for _ in range(dice.randint(1, 3)):
            cart_id = dice.randint(1, 9)
            if cart_id in self.carts and len(self.carts) > 2 and dice.random() < 0.3:
                del self.carts[cart_id]
            elif cart_id in self.carts and dice.random() < 0.2:
                self.carts[cart_id]["__v"] += 1
                self.carts[cart_id]["products"].reverse()
            else:
                lines = [
                    (dice.randint(1, 2), dice.randint(1, 2)) for _ in range(dice.randint(0, 2))
                ]
                self.put(cart_id, *lines, user=dice.randint(1, 2))

    def signatures(self) -> dict[int, str]:
        return {cart_id: signature_of(cart) for cart_id, cart in self.carts.items()}


@contextmanager
def carts_source() -> Iterator[CartsSource]:
    source = CartsSource()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            source.requests += 1
            fault = source.fault
            if fault is None or source.fault_after:
                source.fault_after -= fault is not None
                fault = Fault(json.dumps(list(source.carts.values())).encode())
            if fault.is_hanging:
                source.is_closed.wait(600)
            if fault.is_hanging or fault.is_reset:
                self.close_connection = True
                return
            self.send_response(fault.status)
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(fault.body) + fault.declared))
            self.end_headers()
            self.wfile.write(fault.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    source.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield source
    finally:
        source.is_closed.set()
        server.shutdown()
        server.server_close()


def stage_command(folder: Path, url: str, *flags: str) -> list[str]:
    return [
        *(sys.executable, str(STAGE), "--api-url", url, "--json"),
        *("--state-file", str(folder / "state" / "carts_state.json")),
        *("--events-dir", str(folder / "events")),
        *flags,
    ]


def start_stage(
    folder: Path, url: str, *flags: str, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start the stage as a process."""
    return subprocess.Popen(
        stage_command(folder, url, *flags),
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass
class Ended:
    """A process that has ended: its exit code, its summary where it has one, its log."""

    code: int
    summary: Document
    log: str


def end_stage(process: subprocess.Popen[str], timeout: float = 300) -> Ended:
    """Wait for the end of the stage, or of its FAILPOINT."""
    out, log = process.communicate(timeout=timeout)
    return Ended(process.returncode, json.loads(out) if out else {}, log)


def run_stage(
    folder: Path,
    url: str,
    *flags: str,
    env: dict[str, str] | None = None,
    clock_days: float = 0,
) -> Ended:
    """Run the stage to its end, or to its FAILPOINT; forked, it saves what the imports take."""
    argv = stage_command(folder, url, *flags)[2:]
    forked = start_forked(stage, argv, env or {}, folder / "output" / "run", clock_days)
    return Ended(forked.end(), forked.summary(), forked.log())


def run_here(folder: Path, url: str, *flags: str, env: dict[str, str] | None = None) -> Ended:
    """Run the stage in this process, which saves the second that Google's libraries need."""
    out, log = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    try:
        with patch.dict(os.environ, env or {}), redirect_stdout(out):
            code = stage.main(stage_command(folder, url, *flags)[2:])
    finally:
        logging.getLogger().removeHandler(handler)
    return Ended(code, json.loads(out.getvalue() or "{}"), log.getvalue())


def published(folder: Path) -> list[bytes]:
    """Return the lines of the event store in order, a torn last one too."""
    paths = sorted((folder / "events" / "published").glob("*.jsonl"))
    return [line for path in paths for line in path.read_bytes().splitlines()]


def outbox(folder: Path) -> list[Path]:
    return sorted((folder / "events" / "outbox").glob("*.jsonl"))


def signature_of(cart: Document) -> str:
    return signature(msgspec.convert(cart, Cart))


def fold(documents: Iterable[bytes]) -> dict[int, str]:
    """Return the carts that events add up to, as signatures, the way silver and gold do it.

    Each id counts once; within a cart the newest (generation, sequence) is the current one; and
    a generation of which all carts of the snapshot have arrived supersedes the older ones.
    """
    events = list({document["id"]: document for document in map(json.loads, documents)}.values())
    arrived: dict[tuple[str, int], int] = {}
    for event in events:
        if "snapshot" in event["data"]:
            key = (event["generation"], event["data"]["snapshot"]["size"])
            arrived[key] = arrived.get(key, 0) + 1
    complete = max((name for (name, size), count in arrived.items() if count == size), default="")
    current: dict[int, Document] = {}
    for event in sorted(events, key=lambda each: (each["generation"], each["sequence"])):
        if event["generation"] >= complete:
            current[event["data"]["cart_id"]] = event
    return {
        cart_id: signature_of(event["data"]["after"])
        for cart_id, event in current.items()
        if event["data"]["after"]
    }


def check_no_sequence_twice(documents: Iterable[bytes]) -> None:
    """Fail where one (cart, generation, sequence) was given to two events."""
    given: dict[tuple[int, str, str], str] = {}
    for event in map(json.loads, documents):
        key = (event["data"]["cart_id"], event["generation"], event["sequence"])
        assert given.setdefault(key, event["id"]) == event["id"], f"{key} was given twice"


def check_guarantees(documents: list[bytes], source: CartsSource, *, in_order: bool = True) -> None:
    """Fail unless `documents`, in order of arrival, tell the source's history as promised."""
    first: dict[str, bytes] = {}
    for document in documents:
        event_id = json.loads(document)["id"]
        assert first.setdefault(event_id, document) == document, "one id, two events"
    by_cart: dict[tuple[int, str], list[int]] = {}
    for event in map(json.loads, first.values()):
        key = (event["data"]["cart_id"], event["generation"])
        by_cart.setdefault(key, []).append(int(event["sequence"]))
    for key, sequences in by_cart.items():
        told = sequences if in_order else sorted(sequences)
        assert told == list(range(1, len(sequences) + 1)), f"{key}: {sequences}"
    assert fold(documents) == source.signatures()
