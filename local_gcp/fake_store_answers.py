"""The Fake Store's good answers, as Express words them, and what a fault puts in their place."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from local_gcp.shop_data import Record

HTML_PAGE = "<!DOCTYPE html><html><body><h1>{}</h1></body></html>"


def to_json(value: Any) -> bytes:
    """Return compact JSON in UTF-8, as JavaScript's JSON.stringify writes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # half a surrogate pair is written as its escape
    return text.encode(errors="backslashreplace")


def weak_etag(body: bytes) -> str:
    """Return the ETag that Express gives a body (the npm package `etag`)."""
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()
    return f'W/"{len(body):x}-{digest[:27]}"'


def is_fresh(if_none_match: str | None, etag: str) -> bool:
    """Say whether the client's copy is the current one, by weak comparison."""
    known = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return "*" in known or etag.removeprefix("W/") in known


def answer(request: Request, body: bytes, status: int = 200) -> Response:
    """Return JSON with Express's ETag, or 304 where the client has the same already."""
    etag = weak_etag(body)
    if request.method == "GET" and is_fresh(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers={"etag": etag})
    return Response(body, status, {"etag": etag}, "application/json; charset=utf-8")


def refusal(message: str) -> Response:
    """Return the API's 400 for a request that it does not understand."""
    return Response(
        to_json({"status": "error", "message": message}), 400, media_type="application/json"
    )


def html(status: int, title: str) -> Response:
    """Return an error page, as a proxy in front of the API shows it."""
    return Response(HTML_PAGE.format(title), status, media_type="text/html; charset=UTF-8")


def json_answer(body: bytes) -> Response:
    """Return 200 with this body, said to be JSON."""
    return Response(body, media_type="application/json; charset=utf-8")


def too_many_requests(fault: Record) -> Response:
    """Return 429 with Retry-After: a number of seconds, or a date with `"form": "date"`."""
    seconds = fault.get("seconds", 1)
    after = str(seconds)
    if fault.get("form") == "date":
        after = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    return Response("Too Many Requests", 429, {"retry-after": after})


def truncated(fault: Record, whole: bytes) -> Response:
    """Return half a body: with the whole one's length, or, `"silent": true`, as if it were all."""
    response = json_answer(whole[: len(whole) // 2])
    if not fault.get("silent"):
        response.headers["content-length"] = str(len(whole))
    return response


# kind -> the answer instead of the good one; gets the fault and the good list's records
ANSWERS: dict[str, Callable[[Record, list[Record]], Response]] = {
    "status": lambda fault, _: html(fault.get("status", 503), f"Error {fault.get('status', 503)}"),
    "html403": lambda *_: html(403, "Just a moment..."),
    "object400": lambda *_: refusal("the request cannot be answered"),
    "null": lambda *_: json_answer(b"null"),
    "empty": lambda *_: json_answer(b""),
    "empty_list": lambda *_: json_answer(b"[]"),
    "html200": lambda *_: html(200, "We will be back soon"),
    "duplicate_id": lambda _, records: json_answer(to_json(records + records[:1])),
    "truncated": lambda fault, records: truncated(fault, to_json(records)),
    "retry_after": lambda fault, _: too_many_requests(fault),
}
FAULT_KINDS = (*ANSWERS, "slow", "hang", "reset")
