"""A proxy before fake-gcs-server that refuses the preconditions which the emulator ignores.

    python -m local_gcp.strict_storage --port N --target-port N

fake-gcs-server honours `ifGenerationMatch` of a multipart upload, free of races, and silently
drops every other precondition: a program that counts on one would pass here and lose data on
Google Cloud. Those are answered with 501. One the proxy honours itself: a resumable upload that
must not replace an object (`ifGenerationMatch=0`) gets 412 where there is one when it begins.
Everything else passes byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import parse_qs, quote, urlsplit

from ingestion.arguments import Parser, port

PIECE_BYTES = 1 << 18
PRECONDITIONS = ("ifgeneration", "ifmetageneration", "ifsource", "x-goog-if-", "x-goog-copy-source")

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class Request:
    """The head of a request, as it came and as far as it matters here."""

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        self.head = head
        self.method, target, _ = first.split(" ", 2)
        self.path = urlsplit(target).path
        self.query = {name: one[0] for name, one in parse_qs(urlsplit(target).query).items()}
        fields = (line.partition(":") for line in lines)
        self.headers = {name.lower(): value.strip() for name, _, value in fields}
        given = {**self.query, **self.headers}
        self.preconditions = sorted(n for n in given if n.lower().startswith(PRECONDITIONS))

    @property
    def must_create(self) -> bool:
        """Whether it begins an upload in pieces that must not replace an object."""
        upload = (self.query.get("uploadType"), self.query.get("ifGenerationMatch"))
        return self.preconditions == ["ifGenerationMatch"] and upload == ("resumable", "0")

    @property
    def is_ignored(self) -> bool:
        """Whether the emulator would drop a precondition of it."""
        upload = (self.method, self.query.get("uploadType"), self.preconditions)
        honoured = upload == ("POST", "multipart", ["ifGenerationMatch"]) or self.must_create
        return bool(self.preconditions) and not honoured


async def read_body(request: Request, reader: Reader, writer: Writer | None) -> bytes:
    """Pass the body of a request on as it comes; without `writer`, return it."""
    kept = bytearray()

    async def pass_on(size: int) -> None:
        while size and (piece := await reader.read(min(size, PIECE_BYTES))):
            size -= len(piece)
            await put(piece)

    async def put(piece: bytes) -> None:
        if writer:
            writer.write(piece)
            await writer.drain()
        else:
            kept.extend(piece)

    if request.headers.get("transfer-encoding", "").lower() == "chunked":
        while line := await reader.readline():
            await put(line)
            # a chunk and its newline; the last one is empty, without trailers
            await pass_on((size := int(line.partition(b";")[0], 16)) + 2)
            if not size:
                break
    else:
        await pass_on(int(request.headers.get("content-length", 0)))
    return bytes(kept)


async def is_there(target_port: int, request: Request, body: bytes) -> bool:
    """Tell whether the object that an upload names exists."""
    bucket = request.path.partition("/b/")[2].partition("/")[0]
    name = request.query.get("name") or json.loads(body)["name"]
    reader, writer = await asyncio.open_connection("127.0.0.1", target_port)
    path = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
    writer.write(f"GET {path} HTTP/1.0\r\nHost: {request.headers['host']}\r\n\r\n".encode())
    status = (await reader.readline()).split()[1]
    writer.close()
    return status == b"200"


def answer(status: HTTPStatus, message: str) -> bytes:
    """Return an answer as Cloud Storage spells errors, after which the connection ends."""
    body = json.dumps({"error": {"code": status.value, "message": message}}).encode()
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


async def pass_on_answers(reader: Reader, writer: Writer) -> None:
    """Copy what the emulator answers until it ends, and then the connection."""
    with suppress(ConnectionError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    writer.close()


async def pass_on_requests(target_port: int, client: Reader, back: Writer, server: Writer) -> None:
    """Look at each request of a connection, and pass it on or end with an error."""
    while head := await client.readuntil(b"\r\n\r\n"):
        request = Request(head)
        if request.is_ignored:
            await read_body(request, client, None)
            asked = ", ".join(request.preconditions)
            what = f"{request.method} {request.path} with {asked}"
            refusal = f"{what}: fake-gcs-server would ignore the precondition"
            back.write(answer(HTTPStatus.NOT_IMPLEMENTED, refusal))
            return
        server.write(head)
        if request.must_create:
            body = await read_body(request, client, None)
            if await is_there(target_port, request, body):
                back.write(answer(HTTPStatus.PRECONDITION_FAILED, "the object exists"))
                return
            server.write(body)
        else:
            await read_body(request, client, server)


async def serve(port: int, target_port: int) -> None:
    """Listen until the process ends."""

    async def connected(client: Reader, back: Writer) -> None:
        try:
            reader, server = await asyncio.open_connection("127.0.0.1", target_port)
        except OSError:
            back.transport.abort()
            return
        answers = asyncio.create_task(pass_on_answers(reader, back))
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await pass_on_requests(target_port, client, back, server)
            await back.drain()
        server.close()
        await answers

    listener = await asyncio.start_server(connected, "127.0.0.1", port, limit=PIECE_BYTES)
    async with listener:
        await listener.serve_forever()


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--port", type=port, required=True)
    parser.add_argument("--target-port", type=port, required=True)
    return parser


def main() -> None:
    """Read the command line and serve."""
    args = build_parser().parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(args.port, args.target_port))


if __name__ == "__main__":
    main()
