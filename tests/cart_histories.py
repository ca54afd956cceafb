"""A mutable source of carts, the stage run on it as a process, and what its events add up to."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from cart_changes import Cart, signature

STAGE = Path(__file__).resolve().parent.parent / "near_realtime_ingestion_2.py"
KILLED = -9

Document = dict[str, Any]


class CartsSource:
    """A Fake Store of carts only, in this process: what `carts` holds is what it answers."""

    def __init__(self) -> None:
        self.carts: dict[int, Document] = {}
        self.url = ""

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
            body = json.dumps(list(source.carts.values())).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield source
    finally:
        server.shutdown()
        server.server_close()


def stage_command(folder: Path, url: str, *flags: str) -> list[str]:
    return [
        *(sys.executable, str(STAGE), "--api-url", url, "--json"),
        *("--state-file", str(folder / "state" / "carts_state.json")),
        *("--events-dir", str(folder / "events")),
        *flags,
    ]


def run_stage(
    folder: Path, url: str, *flags: str, env: dict[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run the stage to its end, or to its FAILPOINT."""
    return subprocess.run(
        stage_command(folder, url, *flags),
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


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


def check_guarantees(documents: list[bytes], source: CartsSource) -> None:
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
        assert sequences == list(range(1, len(sequences) + 1)), f"{key}: {sequences}"
    assert fold(documents) == source.signatures()
