"""Check the records of an answer one by one: the valid ones go on, the bad ones get a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from ingestion.json_array import BadAnswer
from ingestion.json_defects import defect_of, may_have_defects

# with more bad records than this share, and more than so many, the answer as a whole is not to be
# trusted: of seven carts a single one is more than a tenth
MAX_BAD_SHARE = 0.10
MAX_BAD_RECORDS = 2

# a record's id fits BigQuery's INT64; msgspec takes neither true nor 1.0 nor "1" for an integer
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


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


def check_records(
    windows: Iterable[list[msgspec.Raw]], record_type: type[Any], key: str = "id"
) -> Iterator[Window]:
    """Yield the windows of `split_records` with each record validated as `record_type`.

    Whether the answer is data is known at its end only: an empty list, a key that stands in two
    records and too many bad records raise BadAnswer.
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
            window = Window(raws, decode_window(array), [])
            is_clean = not may_have_defects(raws, array, {key: len(raws)})
        except (msgspec.DecodeError, RecursionError):
            is_clean = False
        if not is_clean:
            window = _check_one_by_one(raws, decode_record, key, position)
        duplicate = seen.add(map(key_of, window.records))
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


def _check_one_by_one(
    raws: list[msgspec.Raw],
    decode_record: Callable[[bytes], Any],
    key: str,
    position: int,
) -> Window:
    good, records, bad = [], [], []
    for offset, raw in enumerate(raws):
        text = bytes(raw)
        reason = defect_of(text, {key})
        if reason is None:
            try:
                records.append(decode_record(text))
                good.append(raw)
            except msgspec.ValidationError as error:
                reason = str(error)
        if reason is not None:
            bad.append(BadRecord(position + offset, reason, text))
    return Window(good, records, bad)
