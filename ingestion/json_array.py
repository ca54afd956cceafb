"""Cut one JSON array of any size into the bytes of its elements, unchanged, in little memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from typing import TypeVar

import msgspec

# large enough that a call of the JSON decoder is worth it, small enough to be nothing in memory
WINDOW_BYTES = 1 << 18
# the Fake Store has no record of this size; a body that holds one is not kept in memory further
MAX_RECORD_BYTES = 1 << 26
# a record nested deeper than this is not even looked through
MAX_LEVELS = 50_000

# JSON's tokens, for those who read it as bytes
WHITE = rb"[ \t\r\n]*"
WHITE_BYTES = b" \t\r\n"
STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# the lone quote is a string that the end of the text has cut in two
STRUCTURE = re.compile(rb'%b|[][{},"]' % STRING, re.DOTALL)

_FIRST_KEY = re.compile(rb"(%b)(\{%b%b%b:)" % (WHITE, WHITE, STRING, WHITE), re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_COLON = re.compile(rb"%b:" % WHITE)
_BETWEEN = re.compile(rb"[ \t\r\n,]*")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode

Records = TypeVar("Records", bound=Sized)


class BadAnswer(Exception):  # noqa: N818
    """The source answered, but not with a list of valid records: never data.

    `transient` says that another attempt may succeed: the answer was cut short.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


def split_records(blocks: Iterable[bytes]) -> Iterator[list[msgspec.Raw]]:
    """Cut one JSON array, in blocks of any size, into lists of its elements' unchanged bytes.

    Raises BadAnswer on anything but one whole array.
    """
    return split_array(blocks, decode_raws)


def split_array(blocks: Iterable[bytes], decode: Callable[[bytes], Records]) -> Iterator[Records]:
    """Cut one JSON array, in blocks of any size, into shorter ones, each given as `decode` does.

    Memory holds about one of them. It is exact, not a guess: the text up to a '},{' that
    may be a boundary is closed with ']' and parsed, and if that is a whole array, the boundary
    lies between two elements, because a parser's state depends on nothing else. So `decode` must
    raise msgspec.DecodeError for all that is not one whole array, and what it returns is empty
    for an empty array only. Raises BadAnswer like split_records.
    """
    source = iter(blocks)
    pending = _first_bytes(source)
    _require_array(pending)
    del pending[0]

    separator: bytes | None = None
    wanted = WINDOW_BYTES
    after_comma = False
    for block in source:
        pending += block
        if len(pending) < wanted:
            continue
        separator = separator or _separator(pending)
        cut, end = _leading_records(pending, separator, decode)
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
        last = decode(b"[" + pending)
    except msgspec.DecodeError as error:
        if "truncated" in str(error):
            raise BadAnswer("answered a list that is cut short", transient=True) from None
        raise BadAnswer("answered a list that is not valid JSON") from None
    if last:
        yield last
    elif after_comma:
        raise BadAnswer("answered a list that is not valid JSON")


def _first_bytes(source: Iterator[bytes]) -> bytearray:
    """Return the text up to the block in which it begins, without the white space before it."""
    pending = bytearray()
    for block in source:
        pending += block
        if len(pending) >= len(_BYTE_ORDER_MARK):
            break
    pending = pending.removeprefix(_BYTE_ORDER_MARK).lstrip(WHITE_BYTES)
    for block in source if not pending else ():
        pending = bytearray(block.lstrip(WHITE_BYTES))
        if pending:
            break
    return pending


def _require_array(text: bytes | bytearray) -> None:
    first = bytes(text[:1])
    if first == b"[":
        return
    kinds = {b"": "an empty body", b"n": "null", b"{": "a JSON object", b"<": "an HTML page"}
    raise BadAnswer(f"answered {kinds.get(first, 'something')} instead of a list of records")


def _separator(pending: bytearray) -> bytes:
    """Return what most likely stands between two records: '},' and how the first one begins.

    With its first key it is not found between the objects of an array inside a record.
    """
    match = _FIRST_KEY.match(pending)
    return b"}," + match[1] + match[2] if match else b"},{"


def _leading_records(
    pending: bytearray, separator: bytes, decode: Callable[[bytes], Records]
) -> tuple[Records | None, int]:
    """Return the whole records that `pending` begins with, and where the one after them starts."""
    end = len(pending)
    for _ in range(4):
        end = pending.rfind(separator, 0, end)
        if end < 0:
            break
        with suppress(msgspec.DecodeError):  # the separator stood inside a record
            return decode(_closed(pending, end + 1)), end + 2
    end = _last_boundary(pending)
    if not end:
        return None, 0
    try:
        return decode(_closed(pending, end)), end + 1
    except msgspec.DecodeError:
        raise BadAnswer("answered a list that is not valid JSON") from None


def _closed(pending: bytearray, end: int) -> bytes:
    return b"".join((b"[", memoryview(pending)[:end], b"]"))


def _last_boundary(pending: bytearray) -> int:
    """Return the place of the last comma between two elements, token by token, or 0."""
    depth = boundary = position = 0
    while match := STRUCTURE.search(pending, position):
        token = pending[match.start()]
        if token in b"{[":
            depth = _one_level_deeper(depth)
        elif token in b"}]":
            depth -= 1
        elif token in b"," and not depth:
            boundary = match.start()
        elif match[0] == b'"':
            break
        position = match.end()
    return boundary


def value_end(text: bytes, position: int) -> int:
    """Return where the value ends that begins at `position`: at the ',', '}' or ']' behind it."""
    depth = 0
    for match in STRUCTURE.finditer(text, position):
        token = text[match.start()]
        if not depth and token in b"},]":
            return match.start()
        if token in b"{[":
            depth = _one_level_deeper(depth)
        elif token in b"}]":
            depth -= 1
    return len(text)


def top_level_values(record: bytes, name: str) -> list[bytes]:
    """Return the values, as JSON text, of every member of a record's own that is called `name`."""
    values = []
    depth = position = 0
    while match := STRUCTURE.search(record, position):
        position = match.end()
        token = match[0]
        if token in (b"{", b"["):
            depth = _one_level_deeper(depth)
        elif token in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and (colon := _COLON.match(record, position)):
            position = value_end(record, colon.end())
            if spelled_out(token) == name:
                values.append(record[colon.end() : position].strip(WHITE_BYTES))
    return values


def spelled_out(string: bytes) -> str:
    """Return the text that a JSON string means, whatever its bytes."""
    # not msgspec, which refuses half a surrogate pair
    return str(json.loads(string.decode(errors="replace"), strict=False))


def _one_level_deeper(depth: int) -> int:
    if depth == MAX_LEVELS:
        raise BadAnswer("answered a list that is nested too deep")
    return depth + 1


def decode_raws(array: bytes) -> list[msgspec.Raw]:
    """Return the unchanged bytes of an array's elements; msgspec.DecodeError where it is none."""
    try:
        return _decode_raws(array)
    except RecursionError:
        return _cut_by_tokens(array)
    except msgspec.DecodeError:
        # JavaScript writes half of a surrogate pair where it has cut an emoji in two. That is
        # JSON, but msgspec calls it truncated: so it is cut by a copy of equal length, and the
        # one record is refused later, not the whole list
        masked = _masked(array)
        if masked == array:
            raise
        try:
            pieces = _decode_raws(masked)
        except RecursionError:
            return _cut_by_tokens(array)
    raws, position = [], 1
    for piece in pieces:
        position = _BETWEEN.match(array, position).end()  # type: ignore[union-attr]
        raws.append(msgspec.Raw(array[position : position + len(piece)]))
        position += len(piece)
    return raws


def _cut_by_tokens(array: bytes) -> list[msgspec.Raw]:
    """Cut an array with a record too deep for msgspec: that one is refused later, not the list."""
    raws, start = [], 1
    while start < len(array):
        end = value_end(array, start)
        is_last = end == len(array) - 1
        if end == len(array):
            raise msgspec.DecodeError("Input data was truncated")
        if array[end] not in (b"]" if is_last else b","):
            raise msgspec.DecodeError("JSON is malformed")
        element = array[start:end].strip(WHITE_BYTES)
        try:
            _decode_raw(_masked(element))
        except RecursionError:
            _require_pairs_of_brackets(element)
        raws.append(msgspec.Raw(element))
        start = end + 1
    return raws


def _require_pairs_of_brackets(element: bytes) -> None:
    closing = bytearray()
    for match in STRUCTURE.finditer(element):
        token = match[0]
        if token in (b"{", b"["):
            closing += b"}" if token == b"{" else b"]"
        elif token in (b"}", b"]") and closing.pop() != token[0]:
            raise msgspec.DecodeError("JSON is malformed")


def _masked(array: bytes) -> bytes:
    return _SURROGATE.sub(rb"\\u0020", array)
