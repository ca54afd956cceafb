"""Fetch a list of records from the Fake Store API, check it, and take out what must not be kept.

The one thing that the ingestion scripts share. `fetch` asks with bounded retries and hands the
answer to a function of the caller's: in each attempt from the start, so that a body that stops
halfway leaves nothing behind in the result.

    def read(answer: Answer) -> list[Any]:
        windows = check_records(split_records(answer.blocks()), record_type)
        return [record for window in windows for record in window.records]

    records = fetch(open_session(), "https://fakestoreapi.com/carts", read)

Records stay the bytes that the API sent: none is decoded and encoded again. A message holds
counts, positions and reasons, never a record.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from operator import attrgetter
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import requests
import tenacity
import urllib3

USER_AGENT = "fake-store-pipeline/1.0 (python-requests)"

ATTEMPTS = 3
# seconds to connect, and of silence before an answer counts as lost: the API's handlers that
# fail never answer
TIMEOUT = (5.0, 15.0)
# seconds for one whole body, so that one that drips for ever ends too
TOTAL_SECONDS = 300.0
BACKOFF = tenacity.wait_exponential_jitter(initial=0.5, max=8.0, jitter=0.5)
# a server may ask for any pause: a longer one is cut to this many seconds
MAX_RETRY_AFTER = 30.0
# 408 and 429 are about the moment; every other 4xx stays what it is
RETRIED_STATUSES = frozenset({408, 429, *range(500, 600)})

# large enough that a call of the JSON decoder is worth it, small enough to be nothing in memory
WINDOW_BYTES = 1 << 18
# the Fake Store has no record of this size; a body that holds one is not kept in memory further
MAX_RECORD_BYTES = 1 << 26
# with more bad records than this the answer as a whole is not to be trusted
MAX_BAD_SHARE = 0.10

# members that never reach a disk, a bucket, a table or a log, at whatever depth they stand
REDACTED = frozenset({"password"})

# a record's id fits BigQuery's INT64; msgspec takes neither true nor 1.0 nor "1" for an integer
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

T = TypeVar("T")

_WHITE = rb"[ \t\r\n]*"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FIRST_KEY = re.compile(rb"(%b)(\{%b%b%b:)" % (_WHITE, _WHITE, _STRING, _WHITE), re.DOTALL)
# the lone quote is a string that the end of the text has cut in two
_STRUCTURE = re.compile(rb'%b|[][{},"]' % _STRING, re.DOTALL)
_STRING_OR_KEY = re.compile(rb"(%b)(%b:)?" % (_STRING, _WHITE), re.DOTALL)
_ESCAPE_IN_KEY = re.compile(
    rb'\\u[0-9a-fA-F]{4}[^"\\]*+(?:\\.[^"\\]*+)*+"(%b:)?' % _WHITE, re.DOTALL
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])


class FetchFailed(Exception):  # noqa: N818
    """The source could not be reached or answered an error, after the bounded retries.

    The message is one sentence. `status` is the HTTP status, if there was one; `transient` says
    that another attempt may succeed, and `retry_after` in how many seconds the server wants it.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        transient: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.transient = transient
        self.retry_after = retry_after


class BadAnswer(FetchFailed):
    """The source answered, but not with a list of valid records: never data."""

    def __init__(self, message: str, *, status: int = 200, transient: bool = False) -> None:
        super().__init__(message, status=status, transient=transient)


@dataclass(frozen=True)
class BadRecord:
    """A refused record: its position in the answer, from 0, the reason, and its bytes."""

    position: int
    reason: str
    raw: bytes


@dataclass(frozen=True)
class Window:
    """Consecutive records of an answer: the valid ones, as bytes and decoded, and the bad ones."""

    raws: list[msgspec.Raw]
    records: list[Any]
    bad: list[BadRecord]


def split_records(blocks: Iterable[bytes]) -> Iterator[list[msgspec.Raw]]:
    """Cut one JSON array, in blocks of any size, into lists of its elements' unchanged bytes.

    Memory holds about one list's bytes. It is exact, not a guess: the text up to a '},{' that
    may be a boundary is closed with ']' and parsed, and if that is a whole array, the boundary
    lies between two elements, because a parser's state depends on nothing else. Raises BadAnswer
    on anything but one whole array.
    """
    source = iter(blocks)
    pending = bytearray()
    for block in source:
        pending += block
        if pending.strip():
            break
    _require_array(pending)
    del pending[: pending.index(b"[") + 1]

    separator: bytes | None = None
    wanted = WINDOW_BYTES
    after_comma = False
    for block in source:
        pending += block
        if len(pending) < wanted:
            continue
        separator = separator or _separator(pending)
        cut, end = _leading_records(pending, separator)
        if cut:
            yield cut
            after_comma = True
            del pending[:end]
            wanted = WINDOW_BYTES
        elif len(pending) > MAX_RECORD_BYTES:
            raise BadAnswer(f"answered a record of more than {MAX_RECORD_BYTES >> 20} MB")
        else:  # doubled, so that a large record is not scanned anew with each block
            wanted = 2 * len(pending)
    try:
        raws = _decode_array(b"[" + pending)
    except msgspec.DecodeError as error:
        if "truncated" in str(error):
            raise BadAnswer("answered a list that is cut short", transient=True) from None
        raise BadAnswer("answered a list that is not valid JSON") from None
    if raws:
        yield raws
    elif after_comma:
        raise BadAnswer("answered a list that is not valid JSON")


def check_records(
    windows: Iterable[list[msgspec.Raw]], record_type: type[Any], key: str = "id"
) -> Iterator[Window]:
    """Yield the windows of `split_records` with each record validated as `record_type`.

    Whether the answer is data is known at its end only: an empty list, a key that stands twice
    and more than MAX_BAD_SHARE bad records raise BadAnswer.
    """
    decode_window = msgspec.json.Decoder(list[record_type]).decode  # type: ignore[valid-type]
    decode_record = msgspec.json.Decoder(record_type).decode
    key_of = attrgetter(key)
    seen = SeenIds()
    position = bad_count = 0
    first_bad: BadRecord | None = None
    for raws in windows:
        array = b"[%b]" % b",".join(raws)
        try:
            array.decode()  # msgspec skips members that the type does not name unread
            window = Window(raws, decode_window(array), [])
        except (msgspec.DecodeError, UnicodeDecodeError):
            window = _check_one_by_one(raws, decode_record, position)
        duplicate = seen.add(map(key_of, window.records))
        if duplicate is not None:
            raise BadAnswer(f"answered a list that holds {key} {duplicate} twice")
        first_bad = first_bad or next(iter(window.bad), None)
        bad_count += len(window.bad)
        position += len(raws)
        yield window
    if not position:
        raise BadAnswer("answered an empty list")
    if first_bad and bad_count > MAX_BAD_SHARE * position:
        raise BadAnswer(
            f"answered {bad_count} bad records of {position}, the first at position "
            f"{first_bad.position}: {first_bad.reason}"
        )


class SeenIds:
    """Ids seen before: one bit for each below 2**28, so that millions cost kilobytes."""

    _DENSE = 1 << 28

    def __init__(self) -> None:
        self._bits = bytearray()
        self._others: set[int] = set()

    def add(self, ids: Iterable[int]) -> int | None:
        """Remember `ids` up to the first that was seen before, and return that one."""
        bits = self._bits
        for number in ids:
            if 0 <= number < self._DENSE:
                index, bit = number >> 3, 1 << (number & 7)
                if index >= len(bits):
                    bits.extend(bytes(max(1024, len(bits), index + 1 - len(bits))))
                if bits[index] & bit:
                    return number
                bits[index] |= bit
            elif number in self._others:
                return number
            else:
                self._others.add(number)
        return None


def redact(text: bytes, names: frozenset[str] = REDACTED) -> bytes:
    """Remove the members called `names`, at any depth, from JSON text; all other bytes stay.

    `text` is any number of valid JSON values, for instance lines. Names are plain ASCII; their
    escaped spellings, such as "pass\\u0077ord", are found too.
    """
    if not _may_hold(text, names):
        return text
    # the usual shape, at the speed of C: in JSON, ',"' never stands inside a string
    member = rb',%b"(?:%b)"%b:%b%b' % (_WHITE, _alternatives(names), _WHITE, _WHITE, _STRING)
    text = re.sub(member, b"", text, flags=re.DOTALL)
    return _remove_members(text, names) if _may_hold(text, names) else text


def public_url(url: str) -> str:
    """Return `url` without the user name and password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _require_array(text: bytes | bytearray) -> None:
    first = text.strip()[:1]
    if first == b"[":
        return
    kinds = {b"": "an empty body", b"n": "null", b"{": "a JSON object", b"<": "an HTML page"}
    raise BadAnswer(f"answered {kinds.get(bytes(first), 'something')} instead of a list of records")


def _separator(pending: bytearray) -> bytes:
    """Return what most likely stands between two records: '},' and how the first one begins.

    With its first key it is not found between the objects of an array inside a record.
    """
    match = _FIRST_KEY.match(pending)
    return b"}," + match[1] + match[2] if match else b"},{"


def _leading_records(pending: bytearray, separator: bytes) -> tuple[list[msgspec.Raw], int]:
    """Return the whole records that `pending` begins with, and where the one after them starts."""
    end = len(pending)
    for _ in range(4):
        end = pending.rfind(separator, 0, end)
        if end < 0:
            break
        with suppress(msgspec.DecodeError):  # the separator stood inside a record
            return _decode_array(b"[" + pending[: end + 1] + b"]"), end + 2
    end = _last_boundary(pending)
    if not end:
        return [], 0
    try:
        return _decode_array(b"[" + pending[:end] + b"]"), end + 1
    except msgspec.DecodeError:
        raise BadAnswer("answered a list that is not valid JSON") from None


def _last_boundary(pending: bytearray) -> int:
    """Return the place of the last comma between two elements, token by token, or 0."""
    depth = boundary = position = 0
    while match := _STRUCTURE.search(pending, position):
        token = pending[match.start()]
        if token in b"{[":
            depth += 1
        elif token in b"}]":
            depth -= 1
        elif token in b"," and not depth:
            boundary = match.start()
        elif match[0] == b'"':
            break
        position = match.end()
    return boundary


def _decode_array(array: bytes) -> list[msgspec.Raw]:
    try:
        return _RAW_LIST.decode(array)
    except RecursionError:
        raise BadAnswer("answered a list that is nested too deep") from None
    except msgspec.DecodeError:
        # JavaScript writes half of a surrogate pair where it has cut an emoji in two. That is
        # JSON, but msgspec calls it truncated: so it is cut by a copy of equal length, and the
        # one record is refused later, not the whole list
        masked = _SURROGATE.sub(rb"\\u0020", array)
        if masked == array:
            raise
        raws, position = [], 1
        for raw in _RAW_LIST.decode(masked):
            while array[position] in b" \t\r\n,":
                position += 1
            end = position + memoryview(raw).nbytes
            raws.append(msgspec.Raw(array[position:end]))
            position = end
        return raws


def _check_one_by_one(
    raws: list[msgspec.Raw], decode_record: Callable[[bytes], Any], position: int
) -> Window:
    good, records, bad = [], [], []
    for offset, raw in enumerate(raws):
        text = bytes(raw)
        try:
            text.decode()
            records.append(decode_record(text))
            good.append(raw)
        except msgspec.ValidationError as error:
            bad.append(BadRecord(position + offset, str(error), text))
        except (msgspec.DecodeError, UnicodeDecodeError):
            bad.append(BadRecord(position + offset, "text that is not valid Unicode", text))
    return Window(good, records, bad)


def _alternatives(names: frozenset[str]) -> bytes:
    return b"|".join(re.escape(name).encode() for name in sorted(names))


def _may_hold(text: bytes, names: frozenset[str]) -> bool:
    if any(name.encode() in text for name in names):
        return True
    # one byte is found many times faster than two
    return b"\\" in text and any(match[1] for match in _ESCAPE_IN_KEY.finditer(text))


def _remove_members(text: bytes, names: frozenset[str]) -> bytes:
    """Remove the members token by token, each with one of the commas beside it."""
    kept = bytearray()
    position = copied = 0
    while match := _STRING_OR_KEY.search(text, position):
        position = match.end()
        if not match[2] or _spelled_out(match[1]) not in names:
            continue
        kept += text[copied : match.start()]
        copied = position = _value_end(text, position)
        if text[position] in b",":
            after = text[position + 1 : position + 64]
            copied = position = position + 1 + len(after) - len(after.lstrip())
        else:
            kept = kept.rstrip().removesuffix(b",")
    return bytes(kept) + text[copied:]


def _spelled_out(string: bytes) -> str:
    # not msgspec, which refuses half a surrogate pair
    return str(json.loads(string.decode(errors="replace"), strict=False))


def _value_end(text: bytes, position: int) -> int:
    """Return where the member ends whose value begins at `position`: at its ',' or '}'."""
    depth = 0
    for match in _STRUCTURE.finditer(text, position):
        token = text[match.start()]
        if not depth and token in b"},":
            return match.start()
        depth += (token in b"{[") - (token in b"}]")
    raise ValueError("not valid JSON")


@dataclass(frozen=True)
class Answer:
    """One answer of the source: 200 with a body that can be read once, or 304 without one."""

    not_modified: bool
    etag: str | None
    received_at: datetime
    _response: requests.Response
    _seconds: float

    def blocks(self) -> Iterator[bytes]:
        """Yield the body, decompressed; raise FetchFailed where it stops or takes too long."""
        raw: urllib3.HTTPResponse = self._response.raw
        deadline = time.monotonic() + self._seconds
        # the socket's own timeout begins anew with each byte: only the outside ends a drip
        watchdog = threading.Timer(self._seconds, _stop_reading, (raw,))
        watchdog.daemon = True
        watchdog.start()
        try:
            yield from raw.stream(WINDOW_BYTES, decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if time.monotonic() < deadline:
                message = f"stopped in the middle of its answer ({type(error).__name__})"
                raise FetchFailed(message, status=200, transient=True) from None
        finally:
            watchdog.cancel()
        if time.monotonic() >= deadline:
            message = f"did not end its answer within {self._seconds:g} seconds"
            raise FetchFailed(message, status=200, transient=True)


def open_session(user_agent: str = USER_AGENT) -> requests.Session:
    """Return a session that says who asks; it never retries, that is for `fetch`."""
    session = requests.Session()
    session.headers.update({"User-Agent": user_agent, "Accept": "application/json"})
    return session


def fetch(
    session: requests.Session,
    url: str,
    read: Callable[[Answer], T],
    *,
    etag: str | None = None,
    attempts: int = ATTEMPTS,
    timeout: tuple[float, float] = TIMEOUT,
    total_seconds: float = TOTAL_SECONDS,
    backoff: Callable[[tenacity.RetryCallState], float] = BACKOFF,
    sleep: Callable[[float], Any] = time.sleep,
) -> T:
    """GET `url` and return what `read` makes of the answer.

    With `etag` the request is conditional and the answer may be `not_modified`. What may pass
    (no connection, silence, 5xx, 429, a body cut short) is tried again after exponential backoff
    with jitter, or after the server's Retry-After; nothing else is. Each attempt calls `read`
    anew. Raises FetchFailed, or BadAnswer where the source answered something that is no data.
    """

    def attempt() -> T:
        with _get(session, url, etag, timeout) as response:
            return read(_answer(response, etag, total_seconds))

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked: float | None = getattr(error, "retry_after", None)
        return backoff(state) if asked is None else min(asked, MAX_RETRY_AFTER)

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=wait,
        retry=tenacity.retry_if_exception(lambda error: getattr(error, "transient", False)),
        sleep=sleep,
        reraise=True,
    )
    try:
        return retrying(attempt)
    except FetchFailed as error:
        tries = f" ({attempts} attempts)" if error.transient and attempts > 1 else ""
        error.args = (f"{public_url(url)} {error}{tries}.",)
        raise


def _get(
    session: requests.Session, url: str, etag: str | None, timeout: tuple[float, float]
) -> requests.Response:
    headers = {"If-None-Match": etag} if etag else {}
    try:
        return session.get(url, headers=headers, timeout=timeout, stream=True)
    except requests.Timeout:
        message = f"did not answer within {timeout[1]:g} seconds"
        raise FetchFailed(message, transient=True) from None
    except requests.ConnectionError as error:
        message = f"could not be reached: {_root_cause(error)}"
        raise FetchFailed(message, transient=True) from None
    except requests.RequestException as error:
        raise FetchFailed(f"could not be asked: {type(error).__name__}") from None


def _answer(response: requests.Response, etag: str | None, total_seconds: float) -> Answer:
    now = datetime.now(UTC)
    status = response.status_code
    if status == 200 or (status == 304 and etag):
        return Answer(status == 304, response.headers.get("ETag"), now, response, total_seconds)
    if status == 403:
        raise FetchFailed(
            "answered 403: it refuses the addresses of data centres (cloud machines, CI runners) "
            "whatever the client. Run this from another network, or name a copy of the API with "
            "--api-url, such as the one that `python local_gcp.py up` starts",
            status=status,
        )
    if status < 400:
        raise BadAnswer(f"answered {status} instead of a list of records", status=status)
    raise FetchFailed(
        f"answered {status} {response.reason or ''}".rstrip(),
        status=status,
        transient=status in RETRIED_STATUSES,
        retry_after=_retry_after(response.headers.get("Retry-After"), now),
    )


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, given as seconds or as a date."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())


def _root_cause(error: BaseException) -> str:
    """Return the operating system's words, without the address that requests puts into its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _stop_reading(raw: urllib3.HTTPResponse) -> None:
    # the answer may have ended meanwhile
    with suppress(OSError, RuntimeError, ValueError):
        raw.shutdown()
