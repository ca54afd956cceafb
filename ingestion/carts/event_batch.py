"""A batch: the events of one poll, a file of the outbox.

events/outbox/{generation}.{number}.jsonl   a header line, then one CloudEvents document a line,
                                            then {"checksum":"..."} of all of them
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import msgspec
from xxhash import xxh3_128

from ingestion.carts.changes import Event
from ingestion.durable_files import read_lines, replace_file

# UTC start to the millisecond, and a random suffix: later ones sort later
GENERATION = r"[0-9]{8}T[0-9]{9}Z-[0-9a-f]{8}"

_BLOCK_BYTES = 1 << 20
_CHECKSUM = b'{"checksum":"'
_FILE_NAME = re.compile(rf"({GENERATION})\.([0-9]{{10}})\.jsonl")


class BatchHeader(msgspec.Struct, frozen=True):
    """First line of a batch. `events` is their number, so that a cut file shows."""

    generation: str
    number: int
    source: str
    observed_at: str
    events: int


class DamagedBatchError(Exception):
    """A batch is not what was written; the message says which, and what is wrong with it."""


class _Known(msgspec.Struct):
    id: str


class _Keyed(msgspec.Struct):
    id: str
    partitionkey: str


_decode_id = msgspec.json.Decoder(_Known).decode
_decode_keyed = msgspec.json.Decoder(_Keyed).decode
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
            if line.startswith(_CHECKSUM):
                break
            count += 1
            yield line
        if count != expected:
            raise DamagedBatchError(f"{self.path} has {count} of {expected} events")

    def identified(self) -> Iterator[tuple[str, bytes]]:
        """Yield each event's id with its document; DamagedBatchError where a line is no event."""
        for document in self.documents():
            try:
                event_id = _decode_keyed(document).id
            except ValueError:
                raise self._line_is_no_event() from None
            yield event_id, document

    def check(self) -> None:
        """Raise DamagedBatchError unless this is what was written.

        Where its checksum is not at its end, as in a batch that an older version wrote, its events
        are counted and read.
        """
        self.header()
        with self.path.open("rb") as file:
            end = max(0, file.seek(0, 2) - len(_checksum_line("")))
            file.seek(end)
            found = file.read()
            if found.startswith(_CHECKSUM):
                file.seek(0)
                if found != _checksum_line(_checksum_of(file, end)):
                    raise DamagedBatchError(f"{self.path} does not fit its checksum")
                return
        deque(self.identified(), maxlen=0)

    def events(self) -> Iterator[Event]:
        """Yield the events decoded; DamagedBatchError where a line is none."""
        try:
            yield from map(_decode_event, self.documents())
        except ValueError:
            raise self._line_is_no_event() from None

    def _line_is_no_event(self) -> DamagedBatchError:
        return DamagedBatchError(f"{self.path} has a line that is no event")


def batch_at(path: Path) -> Batch | None:
    """Return the batch that a file's name says, or None where it is the name of no batch."""
    named = _FILE_NAME.fullmatch(path.name)
    return Batch(path, named[1], int(named[2])) if named else None


def write_batch(folder: Path, header: BatchHeader, documents: Iterable[bytes]) -> Batch:
    """Make the events of a poll durable, all at once."""
    path = folder / f"{header.generation}.{header.number:010d}.jsonl"
    lines = chain([msgspec.json.encode(header)], documents)
    replace_file(path, _sealed(in_blocks(lines)), "batch")
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


def _sealed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blocks, and at the end a line with their checksum."""
    checksum = xxh3_128()
    for block in blocks:
        checksum.update(block)
        yield block
    yield _checksum_line(checksum.hexdigest())


def _checksum_line(checksum: str) -> bytes:
    return b'%b%32s"}\n' % (_CHECKSUM, checksum.encode())


def _checksum_of(file: BinaryIO, size: int) -> str:
    """Return the checksum of the next `size` bytes."""
    checksum = xxh3_128()
    while size and (block := file.read(min(_BLOCK_BYTES, size))):
        size -= len(block)
        checksum.update(block)
    return checksum.hexdigest()
