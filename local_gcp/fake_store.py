"""A Fake Store API that changes: the public one's shapes and habits, and writes that stay.

    GET    /products /users /carts    the whole list; ?limit=N and ?sort=desc as in the original
    GET    /carts/1                   one record; unknown: 200 with `null`, or no body (products)
    POST   /carts                     201; takes the id in the body where it is free, else the next
    PUT    /carts/1                   replaces, or creates
    PATCH  /carts/1                   changes the members given
    DELETE /carts/1                   answers what it removed

    PUT    /_control/faults           {"path": "/carts", "kind": "status", "status": 503}
    DELETE /_control/faults           every answer is good again
    GET    /_control/requests         what was asked since the start or the last reset
    POST   /_control/reset            the first data, no fault, no request

The data is read from a folder with products.json, users.json and carts.json, and kept in memory.
Pages of other sites are refused: by the Host header (DNS rebinding) and by the Origin header.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion.arguments import Parser, port
from local_gcp.fake_store_answers import ANSWERS, answer, refusal, to_json
from local_gcp.shop_data import ENTITIES, SAMPLE_DATA, Record, read_shop_data

CONTROL_SECONDS = 60.0
# what it is called on this machine; whoever comes by another name was sent by a foreign page
LOOPBACK_NAMES = ("127.0.0.1", "localhost")
FAULT_KINDS = (*ANSWERS, "slow", "hang", "reset")


class Store:
    """The records by entity and id, with the requests seen and the faults switched on."""

    def __init__(self, data_folder: Path = SAMPLE_DATA) -> None:
        """Read the three files; ValueError says what is wrong with them."""
        self.first = read_shop_data(data_folder)
        self.reset()

    def reset(self) -> None:
        """Go back to the first data, without faults and without memory of requests."""
        self.records = {entity: dict(records) for entity, records in self.first.items()}
        self.faults: dict[str, Record] = {}
        self.requests: list[Record] = []

    def take_fault(self, path: str) -> Record | None:
        """Return the fault that holds for this request, and count it."""
        fault = self.faults.get(path)
        if fault and "times" in fault:
            fault["times"] -= 1
            if fault["times"] <= 0:
                del self.faults[path]
        return fault


async def read_body(request: Request) -> Record | None:
    """Return the JSON object that was sent, or None."""
    try:
        body = await request.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def entity_routes(store: Store, entity: str) -> list[Route]:
    """Return the routes of one list and of its records."""
    nothing = b"" if entity == "products" else b"null"

    async def read_list(request: Request) -> Response:
        records = list(store.records[entity].values())
        if request.query_params.get("sort") == "desc":
            records.sort(key=lambda record: record["id"], reverse=True)
        limit = request.query_params.get("limit", "")
        return answer(request, to_json(records[: int(limit)] if limit.isdecimal() else records))

    async def read_one(request: Request) -> Response:
        record = store.records[entity].get(request.path_params["id"])
        return answer(request, to_json(record) if record else nothing)

    async def create(request: Request) -> Response:
        body, records = await read_body(request), store.records[entity]
        record_id = (body or {}).get("id", max(records, default=0) + 1)
        if body is None or not isinstance(record_id, int) or record_id in records:
            return refusal(f"{entity}: an object with an id that is free, or without one, please")
        versioned = {} if entity == "products" else {"__v": 0}
        records[record_id] = {**body, "id": record_id, **versioned}
        return answer(request, to_json(records[record_id]), 201)

    async def write(request: Request) -> Response:
        body, records = await read_body(request), store.records[entity]
        record_id = request.path_params["id"]
        if body is None:
            return refusal(f"{entity}: an object, please")
        if request.method == "PUT":
            versioned = {} if entity == "products" else {"__v": 0}
            records[record_id] = {**body, "id": record_id, **versioned}
        elif record_id in records:
            records[record_id] = {**records[record_id], **body, "id": record_id}
        return answer(request, to_json(records[record_id]) if record_id in records else nothing)

    async def delete(request: Request) -> Response:
        record = store.records[entity].pop(request.path_params["id"], None)
        return answer(request, to_json(record) if record else nothing)

    async def refuse_id(_request: Request) -> Response:
        return refusal(f"{entity}: the id should be a number")

    every = ["GET", "PUT", "PATCH", "DELETE"]
    return [
        Route(f"/{entity}", read_list, methods=["GET"]),
        Route(f"/{entity}", create, methods=["POST"]),
        Route(f"/{entity}/{{id:int}}", read_one, methods=["GET"]),
        Route(f"/{entity}/{{id:int}}", write, methods=["PUT", "PATCH"]),
        Route(f"/{entity}/{{id:int}}", delete, methods=["DELETE"]),
        Route(f"/{entity}/{{id}}", refuse_id, methods=every),
    ]


def control_routes(store: Store) -> list[Route]:
    """Return the routes by which a test switches faults and reads what was asked."""

    async def set_fault(request: Request) -> Response:
        fault = await read_body(request)
        if fault is None or fault.get("kind") not in FAULT_KINDS or "path" not in fault:
            return refusal(f"a fault has a path and a kind, one of {', '.join(FAULT_KINDS)}")
        store.faults[fault["path"]] = fault
        return Response(status_code=204)

    async def clear_faults(_request: Request) -> Response:
        store.faults.clear()
        return Response(status_code=204)

    async def read_requests(_request: Request) -> Response:
        return Response(to_json(store.requests), media_type="application/json")

    async def reset(_request: Request) -> Response:
        store.reset()
        return Response(status_code=204)

    return [
        Route("/_control/faults", set_fault, methods=["PUT"]),
        Route("/_control/faults", clear_faults, methods=["DELETE"]),
        Route("/_control/requests", read_requests, methods=["GET"]),
        Route("/_control/reset", reset, methods=["POST"]),
    ]


class LoopbackOriginMiddleware:
    """Refuse what a page of another site has a browser send, the control routes included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        origin = Request(scope).headers.get("origin") if scope["type"] == "http" else None
        if origin is None or urlsplit(origin).hostname in LOOPBACK_NAMES:
            await self.app(scope, receive, send)
        else:
            await Response("Foreign origin", 403)(scope, receive, send)


def reset_connection(send: Send) -> None:
    """Break the connection with a TCP reset, which no ASGI message asks for."""
    transport = send.__self__.transport  # type: ignore[attr-defined]  # uvicorn's own object
    linger_zero = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
    transport.abort()


class FaultyFront:
    """Before the routes: writes down each request, and spoils the answers that it is told to."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self.app = app
        self.store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"].startswith("/_control/"):
            await self.app(scope, receive, send)
            return
        seen: Record = {
            "method": scope["method"],
            "path": scope["path"],
            "headers": {name.decode(): value.decode("latin-1") for name, value in scope["headers"]},
            "status": None,
        }
        self.store.requests.append(seen)

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            await send(message)

        fault = self.store.take_fault(scope["path"])
        kind = fault["kind"] if fault else ""
        if kind == "reset":
            reset_connection(send)
        elif kind == "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
        elif fault and kind in ANSWERS:
            records = list(self.store.records.get(scope["path"].strip("/"), {}).values())
            await ANSWERS[kind](fault, records)(scope, receive, send_and_note)
        else:
            await asyncio.sleep(fault.get("seconds", 1) if fault else 0)
            await self.app(scope, receive, send_and_note)


def make_app(store: Store) -> ASGIApp:
    """Return the whole service."""
    routes = [route for entity in ENTITIES for route in entity_routes(store, entity)]
    app = Starlette(
        routes=[*routes, *control_routes(store)],
        middleware=[Middleware(GZipMiddleware, minimum_size=1024)],
    )
    local = LoopbackOriginMiddleware(FaultyFront(app, store))
    return TrustedHostMiddleware(local, LOOPBACK_NAMES, www_redirect=False)


def make_server(store: Store) -> uvicorn.Server:
    """Return the service as a server that has not started."""
    return uvicorn.Server(
        uvicorn.Config(
            make_app(store),
            # reset_connection reaches for the transport of exactly this pair
            http="h11",
            loop="asyncio",
            log_level="critical",
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
    )


class FakeStore:
    """A running Fake Store as a test sees it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _control(self, method: str, path: str, body: Record | None = None) -> requests.Response:
        response = requests.request(
            method, f"{self.url}/_control/{path}", json=body, timeout=CONTROL_SECONDS
        )
        response.raise_for_status()
        return response

    def reset(self) -> None:
        """Go back to the first data, without faults and without memory of requests."""
        self._control("POST", "reset")

    def set_fault(self, path: str, kind: str, **options: Any) -> None:
        """Spoil the answers to `path`: for `times` requests, or until the faults are cleared."""
        self._control("PUT", "faults", {"path": path, "kind": kind, **options})

    def clear_faults(self) -> None:
        """Let every answer be good again."""
        self._control("DELETE", "faults")

    @property
    def requests(self) -> list[Record]:
        """What was asked: method, path, headers (names in lower case) and status, or None."""
        seen: list[Record] = self._control("GET", "requests").json()
        return seen


@contextmanager
def running_fake_store(data_folder: Path = SAMPLE_DATA) -> Iterator[FakeStore]:
    """Run a Fake Store of one's own in a thread, on a free port."""
    # bound and listening before the thread starts: the first request waits in the backlog
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(Store(data_folder))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield FakeStore(f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--port", type=port, default=8080, help="default: %(default)s")
    parser.add_argument(
        "--data",
        type=Path,
        default=SAMPLE_DATA,
        metavar="DIR",
        help="default: local_gcp/sample_data",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    args = build_parser().parse_args(argv)
    try:
        store = Store(args.data)
        listener = socket.create_server(("127.0.0.1", args.port))
    except (OSError, ValueError) as error:
        print(f"The Fake Store cannot start: {error}", file=sys.stderr)
        return 1
    make_server(store).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
