"""Find what is JSON and yet not the same everywhere: BigQuery refuses it, or reads it otherwise.

One such record fails the load of a whole file, or is checked by one value and kept by another:
JSON nested deeper than BigQuery takes, a number that neither a double nor a NUMERIC holds,
U+0000, half a surrogate pair, and a member that we read and that stands twice in one object.

`may_have_defects` looks at many records at once, at the speed of memory; only where it cannot
exclude a defect is each record looked at by `defect_of`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation
from typing import Any

import msgspec

from ingestion.json_array import STRUCTURE, WHITE

# the limit of BigQuery's JSON type; the record itself is the first level
MAX_DEPTH = 500
NOT_UNICODE = "text that is not valid Unicode"

# a double gives back every number of fewer digits, unless its exponent has three
_LONG_NUMBER = b"0" * 16
_LONG_EXPONENT = b"0e000"
_NUMBER_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
_INSIDE_NUMBERS = b"+-."
# the text without its words is a quarter as long; what then seems to be a number may be none
_INSIDE_WORDS = b" +-.abcdfghijklmnopqrstuvwxyzABCDFGHIJKLMNOPQRSTUVWXYZ" + bytes(range(128, 256))
_NUMERIC = Context(prec=38, traps=[Inexact, InvalidOperation])
_NUMERIC_STEP = Decimal("1e-9")
# a string from its first escaped character on; with the group it is a key
_ESCAPED = re.compile(rb'\\u[0-9a-fA-F]{4}[^"\\]*+(?:\\.[^"\\]*+)*+"(%b:)?' % WHITE, re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class _DefectError(Exception):
    """Ends the reading of a record; the message is the reason."""


def may_have_defects(
    records: Sequence[msgspec.Raw], text: bytes, members: Mapping[str, int]
) -> bool:
    """Tell whether a record may have a defect; False is certain, True is not.

    `text` holds the bytes of `records`, which msgspec has decoded, so no surrogate pair is cut.
    `members` are looked for twice in one object; each comes with how often it stands in `text`
    where it never does.
    """
    if not records:
        return False
    try:
        text.decode()  # msgspec skips members that the type does not name unread
    except UnicodeDecodeError:
        return True
    # one byte is found many times faster than two
    if (
        b"\\" in text
        and b"\\u" in text
        and any(m[1] or b"\\u0000" in m[0] for m in _ESCAPED.finditer(text))
    ):
        return True
    # each record has each of them, so with as many of them as records none has one twice
    if any(text.count(b'"%b"' % name.encode()) != count for name, count in members.items()):
        return True
    if max(map(len, records)) > 2 * MAX_DEPTH and any(_may_be_deep(bytes(r)) for r in records):
        return True
    return _may_hold_odd_number(text, _INSIDE_WORDS) and _may_hold_odd_number(text, _INSIDE_NUMBERS)


def may_repeat(records: Sequence[msgspec.Raw], text: bytes, members: Collection[str]) -> bool:
    """Tell whether a member may stand twice in one object; False is certain, True is not.

    Like `may_have_defects`, for members that a record may lack. One that is spelled with escapes
    is for that one to find.
    """
    spelled = [b'"%b"' % name.encode() for name in members]
    present = [name for name in spelled if name in text]
    return any(record.count(name) > 1 for record in map(bytes, records) for name in present)


def defect_of(record: bytes, members: Collection[str]) -> str | None:
    """Return why a record, JSON text, must not go further, or None; never with its values."""
    if _may_be_deep(record) and _depth(record) > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels, the most that BigQuery takes"

    def check_object(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        for name in members:
            if names.count(name) > 1:
                raise _DefectError(f"the member `{name}` stands twice")
        _check_texts(names)
        _check_texts([value for _, value in pairs])

    try:
        json.loads(
            record.decode(),
            object_pairs_hook=check_object,
            parse_int=_check_number,
            parse_float=_check_number,
        )
    except UnicodeDecodeError:
        return NOT_UNICODE
    except ValueError:
        return "text that is not valid JSON"
    except _DefectError as defect:
        return str(defect)
    return None


def _may_hold_odd_number(text: bytes, ignored: bytes) -> bool:
    shape = text.translate(_NUMBER_SHAPE, ignored)
    return _LONG_NUMBER in shape or _LONG_EXPONENT in shape


def _may_be_deep(text: bytes) -> bool:
    return text.count(b"{") + text.count(b"[") > MAX_DEPTH


def _depth(text: bytes) -> int:
    depth = deepest = 0
    for match in STRUCTURE.finditer(text):
        token = text[match.start()]
        depth += (token in b"{[") - (token in b"}]")
        deepest = max(deepest, depth)
    return deepest


def _check_texts(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, list):
            _check_texts(value)
        elif isinstance(value, str) and _SURROGATE.search(value):
            raise _DefectError(NOT_UNICODE)
        elif isinstance(value, str) and "\0" in value:
            raise _DefectError("the character U+0000 in a text")


def _check_number(spelling: str) -> None:
    if not is_kept_number(spelling):
        raise _DefectError("a number that neither FLOAT64 nor NUMERIC holds")


def is_kept_number(spelling: str) -> bool:
    """Tell whether a double or a NUMERIC (29 digits before the point, 9 after) holds a number."""
    try:
        # a double holds the number that it gives back
        double = repr(float(spelling))
        if double != spelling and Decimal(double) != Decimal(spelling):
            _NUMERIC.quantize(Decimal(spelling), _NUMERIC_STEP)
    except DecimalException:
        return False
    return True
