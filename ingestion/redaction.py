"""Take out of JSON text the members that must not be kept; every other byte stays."""

from __future__ import annotations

import json
import re

from ingestion.json_array import STRING, STRUCTURE, WHITE

# members that never reach a disk, a bucket, a table or a log, at whatever depth they stand
REDACTED = frozenset({"password"})

_STRING_OR_KEY = re.compile(rb"(%b)(%b:)?" % (STRING, WHITE), re.DOTALL)
_ESCAPE_IN_KEY = re.compile(
    rb'\\u[0-9a-fA-F]{4}[^"\\]*+(?:\\.[^"\\]*+)*+"(%b:)?' % WHITE, re.DOTALL
)


def redact(text: bytes, names: frozenset[str] = REDACTED) -> bytes:
    """Remove the members called `names`, at any depth, from JSON text; all other bytes stay.

    `text` is any number of valid JSON values, for instance lines. Names are plain ASCII; their
    escaped spellings, such as "pass\\u0077ord", are found too.
    """
    if not _may_hold(text, names):
        return text
    # the usual shape, at the speed of C: in JSON, ',"' never stands inside a string
    member = rb',%b"(?:%b)"%b:%b%b' % (WHITE, _alternatives(names), WHITE, WHITE, STRING)
    text = re.sub(member, b"", text, flags=re.DOTALL)
    return _remove_members(text, names) if _may_hold(text, names) else text


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
    for match in STRUCTURE.finditer(text, position):
        token = text[match.start()]
        if not depth and token in b"},":
            return match.start()
        depth += (token in b"{[") - (token in b"}]")
    raise ValueError("not valid JSON")
