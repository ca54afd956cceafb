"""The usual case at a glance: records in which nothing can be odd.

The first record becomes a pattern: its members in their order, each with the kind of its value.
What then matches, member by member, has no other members, none twice, none spelled with escapes,
and only numbers that BigQuery keeps. So one look at the text excludes
all that `json_defects` looks for, and says which members there are. What does not match is not
bad, but has to be looked at more closely.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from ingestion.json_array import STRING, WHITE
from ingestion.json_defects import is_kept_number

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

# no record of a shop is nested so deep; and far less than BigQuery takes
_MAX_DEPTH = 20
# a source that writes otherwise is not tried with every window: so many more failures than
# successes end it
_MAX_FAILURES = 8

# The patterns rely on the text being JSON, which is known before. These two stand for a string and
# for the fraction of a number: what they are matched with depends on the text. In JSON text, and
# so in a member's name, neither can stand
_TEXT = b"\1"
_SOME_FRACTION = b"\2"
_STRING_WITHOUT_BACKSLASH = rb'"[^"]*+"'
# where no escaped backslash stands before a quote
_STRING_WITH_ESCAPED_QUOTES = rb'"[^"]*+"(?:(?<=\\")[^"]*+")*+'
# a NUMERIC holds so many digits
_FRACTION = rb"(?:\.[0-9]{1,9}+)?+"
_ANY_FRACTION = rb"(?:\.[0-9]++)?+"
_LONG_FRACTION = re.compile(rb"\.[0-9]{10,}+")

_NUMBER = rb"-?+[0-9]{1,29}+%b" % _SOME_FRACTION
_INTEGER = rb"(?:0|-?+[1-9][0-9]{0,17}+)"
_SPACE = WHITE + b"+"
_WORD = rb"(?:null|true|false)"
_decode_integers = msgspec.json.Decoder(list[int]).decode
# U+0000, which BigQuery refuses, and halves of surrogate pairs, which may lack the other one
_ODD_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


@dataclass(frozen=True)
class PlainRecords:
    """Records whose text is as usual: their bytes and their keys.

    `names` are those of all members at whatever depth, in lower case.
    """

    raws: list[msgspec.Raw]
    keys: list[int]
    names: frozenset[str]
    has_newlines: bool

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.raws)


class PlainReader:
    """Reads parts of one answer by a shape that it learns from the first record of one of them."""

    def __init__(self, record_type: type[msgspec.Struct], key: str) -> None:
        """`record_type` names the members that each record must have; `key` is an integer one."""
        self._required = {
            field.encode_name: field.type for field in msgspec.structs.fields(record_type)
        }
        self._key = key
        self._shape: _Shape | None = None
        self._failures = 0

    def read(self, array: bytes, raws: list[msgspec.Raw]) -> PlainRecords | None:
        """Return the records of a JSON array, or None where they must be looked at closely.

        `raws` is how the array has been cut.
        """
        if self._failures == _MAX_FAILURES or not raws:
            return None
        keys = self._shape.keys_of(array) if self._shape else None
        if keys is None:
            shape = _shape_of(raws[0], self._required, self._key)
            if shape != self._shape:
                self._shape = shape
                keys = shape.keys_of(array) if shape else None
        if keys is None or self._shape is None:
            self._failures += 1
            return None
        self._failures = max(0, self._failures - 1)
        has_newlines = b"\n" in array or b"\r" in array
        return PlainRecords(raws, keys, self._shape.names, has_newlines)


@dataclass(frozen=True)
class _Shape:
    """What a record looks like: patterns with the key as their group, and the members' names.

    The strict one is quicker: each member is there, with a value of the kind of the first one's.
    """

    strict: bytes
    loose: bytes
    names: frozenset[str]

    def keys_of(self, array: bytes) -> list[int] | None:
        """Return the keys of an array's records, or None where one has not this shape."""
        string = _STRING_WITHOUT_BACKSLASH
        if b"\\" in array:
            if _ODD_ESCAPE.search(array):
                return None
            string = STRING if b'\\\\"' in array else _STRING_WITH_ESCAPED_QUOTES
        try:
            array.decode()
        except UnicodeDecodeError:
            return None
        for record in (self.strict, self.loose):
            if keys := _matched_keys(array, record, string, _FRACTION):
                return keys
        keys = _matched_keys(array, self.loose, string, _ANY_FRACTION)
        return keys if keys and all(map(is_kept_number, _long_numbers(array))) else None


def _long_numbers(text: bytes) -> Iterator[str]:
    """Yield what looks like a number with a long fraction, without its sign."""
    for fraction in _LONG_FRACTION.finditer(text):
        before = text[max(0, fraction.start() - 30) : fraction.start()]
        whole = before[len(before.rstrip(b"0123456789")) :]
        yield (whole + fraction[0]).decode()


def _matched_keys(array: bytes, record: bytes, string: bytes, fraction: bytes) -> list[int] | None:
    record = record.replace(_TEXT, string).replace(_SOME_FRACTION, fraction)
    # all that is no record is one match without a key; re keeps what it has compiled
    keys = re.compile(rb"%b[,\]]|.++" % record, re.DOTALL).findall(array, 1)
    return _decode_integers(b"[%b]" % b",".join(keys)) if keys[-1] else None


def _shape_of(raw: msgspec.Raw, required: Mapping[str, Any], key: str) -> _Shape | None:
    try:
        record = msgspec.json.decode(raw)
        strict = _Patterns(required, key, is_loose=False)
        loose = _Patterns(required, key, is_loose=True)
        return _Shape(strict.of_record(record), loose.of_record(record), frozenset(loose.names))
    except (ValueError, RecursionError, _NotPlainError):
        return None


class _NotPlainError(Exception):
    """A record has no shape that others could have."""


class _Patterns:
    """Makes the pattern of a record, and collects the names of its members.

    In a loose one members that are not required may be missing or null, where a text, a number or
    a word stands any of them may, and white space may stand between.
    """

    def __init__(self, required: Mapping[str, Any], key: str, *, is_loose: bool) -> None:
        self.names: set[str] = set()
        self._required = required
        self._key = key
        self._is_loose = is_loose
        self._space = _SPACE if is_loose else b""
        self._comma = b"%b,?+%b" % (self._space, self._space)

    def of_record(self, record: Any) -> bytes:
        if not isinstance(record, dict) or self._required.keys() - record.keys():
            raise _NotPlainError
        return b"%b%b%b" % (self._space, self._object(record, self._required, 1), self._space)

    def _object(self, value: Mapping[str, Any], required: Mapping[str, Any], depth: int) -> bytes:
        members = b""
        for name, member in value.items():
            self.names.add(name.lower())
            comma = self._comma if self._is_loose else b"," if members else b""
            spelled = re.escape(msgspec.json.encode(name))
            start = b"%b%b%b:%b" % (comma, spelled, self._space, self._space)
            if name in required:
                pattern = self._of_type(required[name], member, depth)
                members += start + (b"(%b)" % pattern if name == self._key else pattern)
            elif self._is_loose:
                members += b"(?:%b%b)?+" % (start, self._value(member, depth))
            else:
                members += start + self._value(member, depth)
        return rb"\{%b%b\}" % (members, self._space)

    def _of_type(self, required: Any, value: Any, depth: int) -> bytes:
        if required is list and isinstance(value, list):
            return self._list(value, depth)
        patterns = {str: _TEXT, float: _NUMBER, Int64: _INTEGER}
        if required not in patterns:
            raise _NotPlainError
        return patterns[required]

    def _value(self, value: Any, depth: int) -> bytes:
        if depth == _MAX_DEPTH:
            raise _NotPlainError
        if isinstance(value, dict):
            kinds = [self._object(value, {}, depth + 1), b"null"]
        elif isinstance(value, list):
            kinds = [self._list(value, depth), b"null"]
        elif isinstance(value, str):
            kinds = [_TEXT, _NUMBER, _WORD]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            kinds = [_NUMBER, _TEXT, _WORD]
        else:
            kinds = [_WORD, _TEXT, _NUMBER]
        return b"(?:%b)" % b"|".join(kinds) if self._is_loose else kinds[0]

    def _list(self, value: list[Any], depth: int) -> bytes:
        if not value:
            raise _NotPlainError
        return rb"\[(?:%b%b)*+%b\]" % (self._comma, self._value(value[0], depth + 1), self._space)
