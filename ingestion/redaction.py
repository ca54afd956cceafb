"""Take out of JSON text the members that must not be kept; every other byte stays."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from ingestion.json_array import WHITE, WHITE_BYTES, value_end

# members that never reach a disk, a bucket, a table or a log, at whatever depth they stand and
# however they are spelled: Password, PASSWORD, "pass\\u0077ord"
REDACTED = frozenset({"password"})

_WHITE = re.compile(WHITE)
# an ASCII letter that is spelled as an escape begins so
_ESCAPED_LETTERS = (b"\\u004", b"\\u005", b"\\u006", b"\\u007")


def redact(text: bytes, names: frozenset[str] = REDACTED) -> bytes:
    """Remove the members called `names`, at any depth, from JSON text; all other bytes stay.

    `text` is any number of valid JSON values, for instance lines. Names are ASCII letters in
    lower case; a member is found whatever the case of its letters, and if they are escaped.
    """
    lower = text.lower()
    plain_key, any_key = _patterns(names)
    # one byte is found many times faster than several
    if b"\\" in text and b"\\u00" in text and any(each in text for each in _ESCAPED_LETTERS):
        return _remove_members(text, any_key.finditer(text))
    if any(b'"%b"' % name.encode() in lower for name in names):
        return _remove_members(text, plain_key.finditer(lower))
    return text


@cache
def _patterns(names: frozenset[str]) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Return what finds a key and its colon in lower-case text, and what does in any spelling.

    Neither is found inside a string: there each quote is behind a backslash, and outside of one
    no quote is.
    """
    words = sorted(names)
    plain = b"|".join(b'"%b"(?<!\\\\.{%d})' % (word.encode(), len(word) + 2) for word in words)
    spelled = b"|".join(b"".join(map(_spellings, word)) for word in words)
    return (
        re.compile(b"(?:%b)%b:" % (plain, WHITE), re.DOTALL),
        re.compile(rb'(?<!\\)"(?:%b)"%b:' % (spelled, WHITE)),
    )


def _spellings(letter: str) -> bytes:
    codes = "|".join(f"{ord(each):02x}|{ord(each):02X}" for each in (letter, letter.upper()))
    return rb"(?:[%b%b]|\\u00(?:%b))" % (letter.encode(), letter.upper().encode(), codes.encode())


def _remove_members(text: bytes, keys: Iterable[re.Match[bytes]]) -> bytes:
    """Remove the members one by one, each with one of the commas beside it."""
    kept = bytearray()
    copied = 0
    for key in keys:
        start, end = key.span()
        if start < copied:  # inside a value that is gone
            continue
        kept += text[copied:start]
        copied = value_end(text, end)
        if text[copied : copied + 1] == b",":
            copied = _WHITE.match(text, copied + 1).end()  # type: ignore[union-attr]
        else:
            while kept and kept[-1] in WHITE_BYTES:
                del kept[-1]
            if kept.endswith(b","):
                del kept[-1]
    return bytes(kept) + text[copied:]
