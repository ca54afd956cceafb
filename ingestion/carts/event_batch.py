"""A batch: the events of one poll, a file of the outbox.

events/outbox/{generation}.{number}.jsonl   a header line, then one CloudEvents document a line
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path

import msgspec

from ingestion.carts.changes import Event
from ingestion.durable_files import read_lines, replace_file

# UTC start to the millisecond, and a random suffix: later ones sort later
GENERATION = r"[0-9]{8}T[0-9]{9}Z-[0-9a-f]{8}"

_FILE_NAME = re.compile(rf"({GENERATION})\.([0-9]{{10}})\.jsonl")


class BatchHeader(msgspec.Struct, frozen=True):
    """First line of a batch. `events` is their number, so that a cut file shows."""

    generation: str
    number: int
    source: str
    observed_at: str
    events: int


class DamagedBatchError(Exception):
    """A batch has fewer events than its header says, or no header; the message says which."""


class _Known(msgspec.Struct):
    id: str


_decode_id = msgspec.json.Decoder(_Known).decode
_decode_event = msgspec.json.Decoder(Event).decode


class Batch:
    """One poll's events on the disk, known by generation and number; both stand in its name."""

    def __init__(self, path: Path, generation: str, number: int) -> None:
        """Name a batch; nothing is read yet."""
        self.path = path
        self.generation = generation
        self.number = number

    def header(self) -> BatchHeader:
        """Return the first line; DamagedBatchError where there is none that fits the name."""
        try:
            header = msgspec.json.decode(next(read_lines(self.path), b""), type=BatchHeader)
        except ValueError:
            raise DamagedBatchError(f"{self.path} has no header") from None
        if (header.generation, header.number) != (self.generation, self.number):
            raise DamagedBatchError(f"{self.path} is another batch than its name says")
        return header

    def documents(self) -> Iterator[bytes]:
        """Yield the events as they are published; DamagedBatchError at the end of a cut file."""
        expected = self.header().events
        count = 0
        for line in islice(read_lines(self.path), 1, None):
            count += 1
            yield line
        if count != expected:
            raise DamagedBatchError(f"{self.path} has {count} of {expected} events")

    def is_whole(self) -> bool:
        """Tell whether all events are there that the header promises."""
        try:
            deque(self.documents(), maxlen=0)
        except DamagedBatchError:
            return False
        return True

    def events(self) -> Iterator[Event]:
        """Yield the events decoded."""
        return map(_decode_event, self.documents())


def batch_at(path: Path) -> Batch | None:
    """Return the batch that a file's name says, or None where it is the name of no batch."""
    named = _FILE_NAME.fullmatch(path.name)
    return Batch(path, named[1], int(named[2])) if named else None


def write_batch(folder: Path, header: BatchHeader, documents: Iterable[bytes]) -> Batch:
    """Make the events of a poll durable, all at once."""
    path = folder / f"{header.generation}.{header.number:010d}.jsonl"
    replace_file(path, in_blocks(chain([msgspec.json.encode(header)], documents)), "batch")
    return Batch(path, header.generation, header.number)


def event_id_of(document: bytes) -> str:
    """Return the id of an event without decoding the rest of it; ValueError where it has none."""
    return _decode_id(document).id


def format_time(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC with microseconds, so that text sorts as time does."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def in_blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join lines, given without their newlines, into blocks worth a write."""
    source = iter(lines)
    while block := list(islice(source, 1000)):
        yield b"\n".join(block) + b"\n"
