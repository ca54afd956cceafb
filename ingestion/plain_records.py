"""The usual case at a glance: records in which nothing can be odd.

Records are decoded by the shape of the first one and encoded again. That gives the same bytes only
where every member is one of the first record's, stands once and in its place, every text is valid
Unicode, and every number is an integer of 64 bits or what its double is written as. So one
comparison excludes all that `json_defects` looks for, and says which members there are. What
differs is not bad, but has to be looked at more closely.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

# no record of a shop is nested so deep; and far less than BigQuery takes
_MAX_DEPTH = 20
# a source that writes otherwise is not tried with every window
_MAX_FAILURES = 8

_NUMBER = Int64 | float
_SCALAR = str | _NUMBER | bool | None
_encode_lines = msgspec.json.Encoder().encode_lines


@dataclass(frozen=True)
class PlainRecords:
    """Records whose text is as usual: decoded, and as lines, between which newlines stand.

    `names` are those of all members at whatever depth, in lower case.
    """

    records: list[Any]
    lines: bytes
    names: frozenset[str]

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)


class PlainReader:
    """Reads parts of one answer by a shape that it learns from the first record of one of them."""

    def __init__(self, record_type: type[msgspec.Struct]) -> None:
        """`record_type` names the members that each record must have."""
        self._required = {
            field.encode_name: field.type for field in msgspec.structs.fields(record_type)
        }
        self._shape: _Shape | None = None
        self._failures = 0

    def read(self, array: bytes) -> PlainRecords | None:
        """Return the records of a JSON array, or None where they must be looked at closely."""
        if self._failures == _MAX_FAILURES:
            return None
        plain = self._shape.read(array) if self._shape else None
        if plain is None:
            self._shape = _shape_of_first(array, self._required)
            plain = self._shape.read(array) if self._shape else None
        self._failures += plain is None
        return plain


class _Shape:
    """The members of a record, with the names and types that theirs have."""

    def __init__(self, record: Mapping[str, Any], required: Mapping[str, Any]) -> None:
        self._names: set[str] = set()
        record_type = self._struct(record, required, 1)
        self._decode = msgspec.json.Decoder(list[record_type]).decode  # type: ignore[valid-type]

    def read(self, array: bytes) -> PlainRecords | None:
        try:
            records = self._decode(array)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return None
        lines = _encode_lines(records)[:-1]
        # in encoded JSON a newline stands between two lines only
        if len(lines) != len(array) - 2 or not array.startswith(lines.replace(b"\n", b","), 1):
            return None
        # the one character that JSON can spell and BigQuery refuses
        if b"\\" in lines and b"\\u0000" in lines:
            return None
        return PlainRecords(records, lines, frozenset(self._names))

    def _struct(self, value: Mapping[str, Any], required: Mapping[str, Any], depth: int) -> Any:
        """Return the type of an object; members that are not required may be missing or null."""
        if required.keys() - value.keys():
            raise _NotPlainError
        fields: list[Any] = []
        renamed = {}
        for number, (name, member) in enumerate(value.items()):
            self._names.add(name.lower())
            field = name if _is_field_name(name) else f"_{number}"
            renamed[field] = name
            if name in required:
                fields.append((field, self._required_type(required[name], member, depth)))
            else:
                optional = self._type(member, depth) | None | msgspec.UnsetType
                fields.append((field, optional, msgspec.UNSET))
        return msgspec.defstruct("Plain", fields, rename=renamed, kw_only=True, gc=False)

    def _required_type(self, given: Any, value: Any, depth: int) -> Any:
        if given is float:
            return _NUMBER
        if given is list and isinstance(value, list):
            return self._type(value, depth)
        if given in (str, Int64):
            return given
        raise _NotPlainError

    def _type(self, value: Any, depth: int) -> Any:
        if depth == _MAX_DEPTH or value in ([], {}):
            raise _NotPlainError
        if isinstance(value, dict):
            return self._struct(value, {}, depth + 1)
        if isinstance(value, list):
            element = self._type(value[0], depth + 1)
            return list[element]  # type: ignore[valid-type]
        return _SCALAR


class _NotPlainError(Exception):
    """A record has no shape that others could have."""


def _shape_of_first(array: bytes, required: Mapping[str, Any]) -> _Shape | None:
    try:
        first = msgspec.json.decode(msgspec.json.decode(array, type=list[msgspec.Raw])[0])
        return _Shape(first, required) if isinstance(first, dict) else None
    except (ValueError, IndexError, RecursionError, _NotPlainError):
        return None


def _is_field_name(name: str) -> bool:
    is_name = name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
    return is_name and not name.startswith("_")
