"""Check the records of an answer one by one: the valid ones go on, the bad ones get a reason."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec

from ingestion.json_array import BadAnswer, decode_raws, split_array
from ingestion.json_defects import NOT_UNICODE, defect_of, may_have_defects, may_repeat
from ingestion.plain_records import Int64, PlainReader, PlainRecords

# with more bad records than this share, and more than so many, the answer as a whole is not to be
# trusted: of seven carts a single one is more than a tenth
MAX_BAD_SHARE = 0.10
MAX_BAD_RECORDS = 2

# a record's id fits BigQuery's INT64; msgspec takes neither true nor 1.0 nor "1" for an integer
Id = Int64


@dataclass(frozen=True)
class BadRecord:
    """A refused record: its position in the answer, from 0, the reason, and its bytes."""

    position: int
    reason: str
    raw: bytes


@dataclass(frozen=True)
class Window:
    """Consecutive records of an answer: the valid ones, as bytes, their keys, and the bad ones."""

    raws: list[msgspec.Raw] | PlainRecords
    keys: list[int]
    bad: list[BadRecord]


def split_plainly(
    blocks: Iterable[bytes], record_type: type[Any], key: str = "id"
) -> Iterator[list[msgspec.Raw] | PlainRecords]:
    """Cut one JSON array like split_records, only that parts of usual text need no closer look."""
    reader = PlainReader(record_type, key)

    def read(array: bytes) -> list[msgspec.Raw] | PlainRecords:
        raws = decode_raws(array)
        return reader.read(array, raws) or raws

    return split_array(blocks, read)


def check_records(
    windows: Iterable[list[msgspec.Raw] | PlainRecords],
    record_type: type[Any],
    key: str = "id",
    members: Collection[str] = (),
) -> Iterator[Window]:
    """Yield the windows of `split_records` with each record validated as `record_type`.

    Neither the key nor one of `members` may stand twice in one object of a record.
    Whether the answer is data is known at its end only: an empty list, a key that stands in two
    records and too many bad records raise BadAnswer.
    """
    check = _Checker(record_type, key, members)
    seen = SeenIds()
    position = bad_count = 0
    first_bad: BadRecord | None = None
    for raws in windows:
        if isinstance(raws, PlainRecords):
            window = Window(raws, raws.keys, [])
        else:
            window = check(raws, position)
        duplicate = seen.add(window.keys)
        if duplicate is not None:
            raise BadAnswer(f"answered a list that holds {key} {duplicate} twice")
        first_bad = first_bad or next(iter(window.bad), None)
        bad_count += len(window.bad)
        position += len(raws)
        yield window
    if not position:
        raise BadAnswer("answered an empty list")
    if first_bad and too_many_bad(bad_count, position):
        raise BadAnswer(
            f"answered {bad_count} bad records of {position}, the first at position "
            f"{first_bad.position}: {first_bad.reason}"
        )


def too_many_bad(bad: int, records: int) -> bool:
    """Tell whether so many bad records make an answer no data; without a good one it never is."""
    return bad == records or (bad > MAX_BAD_RECORDS and bad > MAX_BAD_SHARE * records)


class SeenIds:
    """Ids seen before: one bit for each below 2**28, so that millions cost kilobytes."""

    _DENSE = 1 << 28
    # as many places as ids that lie near each other may take
    _SPARSENESS = 64

    def __init__(self) -> None:
        self._bits = bytearray()
        self._others: set[int] = set()

    def add(self, numbers: list[int]) -> int | None:
        """Remember ids up to the first that was seen before, and return that one."""
        if self._add_at_once(numbers):
            return None
        for number in numbers:
            if 0 <= number < self._DENSE:
                index, bit = number >> 3, 128 >> (number & 7)
                self._reserve(index + 1)
                if self._bits[index] & bit:
                    return number
                self._bits[index] |= bit
            elif number in self._others:
                return number
            else:
                self._others.add(number)
        return None

    def _add_at_once(self, numbers: list[int]) -> bool:
        """Remember ids near each other; False, and nothing done, where that is not the case."""
        first, last = min(numbers, default=0) >> 3, max(numbers, default=0) >> 3
        places = 8 * (last - first + 1)
        if first < 0 or last >= self._DENSE >> 3 or places > self._SPARSENESS * len(numbers):
            return False
        flags = bytearray(b"0") * places
        start = numbers[0] - 8 * first
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            flags[start : start + len(numbers)] = b"1" * len(numbers)
        else:
            for number in numbers:
                flags[number - 8 * first] = ord("1")
        added = int(flags, 2)
        self._reserve(last + 1)
        bits = int.from_bytes(self._bits[first : last + 1], "big")
        if bits & added or added.bit_count() < len(numbers):
            return False
        self._bits[first : last + 1] = (bits | added).to_bytes(places >> 3, "big")
        return True

    def _reserve(self, size: int) -> None:
        missing = size - len(self._bits)
        if missing > 0:
            self._bits.extend(bytes(max(1024, len(self._bits), missing)))


class _Checker:
    """Looks at records closely, and one by one where that does not exclude a defect."""

    def __init__(self, record_type: type[Any], key: str, members: Collection[str]) -> None:
        self._key = key
        self._members = (key, *(name for name in members if name != key))
        self._key_of = attrgetter(key)
        self._decode_record = msgspec.json.Decoder(record_type).decode
        self._decode_window = msgspec.json.Decoder(list[record_type]).decode  # type: ignore[valid-type]

    def __call__(self, raws: list[msgspec.Raw], position: int) -> Window:
        array = b"[%b]" % b",".join(raws)
        with suppress(ValueError, RecursionError):  # msgspec's errors are ValueErrors
            records = self._decode_window(array)
            once = {self._key: len(raws)}
            if not (may_have_defects(raws, array, once) or may_repeat(raws, array, self._members)):
                return Window(raws, list(map(self._key_of, records)), [])
        good, keys, bad = [], [], []
        for offset, raw in enumerate(raws):
            text = bytes(raw)
            reason = defect_of(text, self._members)
            if reason is None:
                try:
                    keys.append(self._key_of(self._decode_record(text)))
                    good.append(raw)
                except msgspec.ValidationError as error:
                    reason = str(error)
                except msgspec.DecodeError:  # half a surrogate pair in a record that is a text
                    reason = NOT_UNICODE
            if reason is not None:
                bad.append(BadRecord(position + offset, reason, text))
        return Window(good, keys, bad)
