"""The outbox of events that have not left yet, and the local event store of those that have.

    events/outbox/{generation}.{number}.jsonl   one poll's events: a header line, then the events
    events/published/{yyyy-mm-dd}.jsonl         the events that left, in the order of leaving
    events/dead_letter/{yyyy-mm-dd}.jsonl       the events that Pub/Sub refused, and why
    events/quarantine/{yyyy-mm-dd}.jsonl        the records of the API that are no carts, and why

Why these files. A poll's events become durable together: the rename of its batch is the commit,
and until the state is saved that batch is the whole truth about the poll. A restart therefore
never has to decide anew: a batch that the state does not have is put into it, and a poll that
died before the rename has not happened. The cold start's batch also carries the generation, so
a generation exists from the moment at which all of its first events do.

An event is forgotten (its batch removed) only after the event store has it. The store is thus
the record of what has left: a restart looks there for the part of a batch that need not be sent
again. The outbox lies beside the store, not beside the state, because it must outlive the state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from itertools import chain, islice
from pathlib import Path

import msgspec

from ingestion.carts.changes import Event
from ingestion.durable_files import append_lines, failpoint, read_lines, replace_file

# events handed to the publisher at once, and the most that a kill can make it send twice
ROUND_EVENTS = 5_000
# an event may have 10 MB, and a round lies in memory
ROUND_BYTES = 64_000_000


class BatchHeader(msgspec.Struct, frozen=True):
    """First line of a batch. `events` is their number, so that a cut file shows."""

    generation: str
    number: int
    source: str
    observed_at: str
    events: int


class DamagedBatchError(Exception):
    """A batch has fewer events than its header says, or no header."""


@dataclass(frozen=True)
class Refusal:
    """An event that Pub/Sub will never take, and why."""

    event: bytes
    reason: str


class Obstacle(Enum):
    """What kept events here: a signal, something that may pass, something that will not."""

    STOPPED = "stopped"
    UNREACHABLE = "unreachable"
    UNUSABLE = "unusable"


@dataclass(frozen=True)
class Sending:
    """What became of some events; what is neither in `left` nor in `refused` still waits.

    `obstacle` says why some wait, and `problem` says it in a sentence.
    """

    left: Sequence[bytes]
    refused: Sequence[Refusal] = ()
    obstacle: Obstacle | None = None
    problem: str = ""


@dataclass
class Delivery:
    """The sum of several sendings; an obstacle ends a delivery, so there is one at most."""

    published: int = 0
    refused: int = 0
    obstacle: Obstacle | None = None
    problem: str = ""

    def add(self, sending: Sending) -> None:
        """Count a sending."""
        self.published += len(sending.left)
        self.refused += len(sending.refused)
        self.obstacle, self.problem = sending.obstacle, sending.problem


Send = Callable[[Sequence[bytes]], Sending]


class _EventId(msgspec.Struct):
    id: str


class _DeadLetter(msgspec.Struct):
    event: msgspec.Raw
    reason: str
    failed_at: str


_decode_id = msgspec.json.Decoder(_EventId).decode
_decode_dead_letter = msgspec.json.Decoder(_DeadLetter).decode
_decode_event = msgspec.json.Decoder(Event).decode


class Batch:
    """One poll's events on the disk, known by generation and number; both stand in its name."""

    def __init__(self, path: Path) -> None:
        """Name a batch; nothing is read yet."""
        self.path = path
        self.generation, _, number = path.stem.partition(".")
        self.number = int(number)

    def header(self) -> BatchHeader:
        """Return the first line; DamagedBatchError where there is none."""
        try:
            return msgspec.json.decode(next(read_lines(self.path), b""), type=BatchHeader)
        except msgspec.DecodeError:
            raise DamagedBatchError(f"{self.path} has no header") from None

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


class EventFolder:
    """The folder given as --events-dir: outbox, event store, dead letters, quarantine."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        """Look into `folder`, which need not exist; files are named for the day of `now`."""
        self.outbox = folder / "outbox"
        self._published = folder / "published"
        self.dead_letters = folder / "dead_letter"
        self._quarantine = folder / "quarantine"
        self._now = now
        # ids of the oldest batch's events that need not be sent again; a batch is begun only
        # after the one before it was finished, so no other batch can have any
        self._settled = self._already_settled()

    def batches(self) -> list[Batch]:
        """Return the batches that wait, oldest first: by generation, then by number."""
        return [Batch(path) for path in sorted(self.outbox.glob("*.[0-9]*.jsonl"))]

    def waiting(self) -> int:
        """Return how many events the outbox holds that still have to leave."""
        return sum(batch.header().events for batch in self.batches()) - len(self._settled)

    def commit_batch(self, header: BatchHeader, documents: Iterable[bytes]) -> Batch:
        """Make the events of a poll durable, all at once."""
        path = self.outbox / f"{header.generation}.{header.number:010d}.jsonl"
        lines = chain([msgspec.json.encode(header)], documents)
        replace_file(path, _in_blocks(lines), "batch")
        return Batch(path)

    def deliver(self, send: Send) -> Delivery:
        """Send what waits, batch after batch, until all has left or something stands in the way.

        A batch has one event per cart at most, and the next batch begins after the last event
        of this one was acknowledged: that is the order per cart. An event that is refused goes
        to the dead letters and lets the cart's later ones pass.
        """
        delivery = Delivery()
        for batch in self.batches():
            documents = batch.documents()
            waiting = (line for line in documents if event_id_of(line) not in self._settled)
            for events in _rounds(waiting):
                sending = send(events)
                self._settle(sending)
                delivery.add(sending)
                if sending.obstacle:
                    return delivery
            batch.path.unlink()
            self._settled.clear()
            failpoint("batch-removed")
        return delivery

    def replay_dead_letters(self, send: Send) -> Delivery:
        """Send the dead letters again, oldest first; those that leave are dead letters no more."""
        delivery = Delivery()
        for path in sorted(self.dead_letters.glob("*.jsonl")):
            letters = list(read_lines(path))
            # a kill between the event store and the new file of dead letters leaves both
            gone = _ids_since(self._published, path.stem, event_id_of)
            documents = (bytes(_decode_dead_letter(line).event) for line in letters)
            waiting = (line for line in documents if event_id_of(line) not in gone)
            for events in _rounds(waiting):
                sending = send(events)
                self._append(self._published, sending.left)
                gone.update(map(event_id_of, sending.left))
                delivery.add(sending)
                if sending.obstacle:
                    break
            kept = [line for line in letters if _dead_letter_id(line) not in gone]
            if kept:
                replace_file(path, _in_blocks(kept), "replay")
            else:
                path.unlink()
            if delivery.obstacle:
                break
        return delivery

    def quarantine(self, records: Iterable[tuple[bytes, str]]) -> None:
        """Keep records that are no carts, each with the reason; they hold no password any more."""
        failed_at = format_time(self._now())
        lines = [
            msgspec.json.encode(
                {"record": _on_one_line(raw), "reason": why, "failed_at": failed_at}
            )
            for raw, why in records
        ]
        self._append(self._quarantine, lines)

    def _settle(self, sending: Sending) -> None:
        failed_at = format_time(self._now())
        letters = [
            _DeadLetter(msgspec.Raw(refusal.event), refusal.reason, failed_at)
            for refusal in sending.refused
        ]
        self._append(self.dead_letters, [msgspec.json.encode(letter) for letter in letters])
        self._append(self._published, sending.left)
        self._settled.update(event_id_of(refusal.event) for refusal in sending.refused)
        self._settled.update(map(event_id_of, sending.left))

    def _append(self, folder: Path, lines: Sequence[bytes]) -> None:
        if lines:
            append_lines(folder / f"{self._now():%Y-%m-%d}.jsonl", lines, folder.name)

    def _already_settled(self) -> set[str]:
        """Return what a process that was killed had sent, or refused, of the oldest batch."""
        batches = self.batches()
        if not batches:
            return set()
        try:
            ids = set(map(event_id_of, batches[0].documents()))
            day = batches[0].header().observed_at[: len("2026-11-22")]
        except DamagedBatchError:
            return set()
        settled = _ids_since(self._published, day, event_id_of)
        settled |= _ids_since(self.dead_letters, day, _dead_letter_id)
        return ids & settled


def event_id_of(document: bytes) -> str:
    """Return the id of an event without decoding the rest of it."""
    return _decode_id(document).id


def format_time(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC with microseconds, so that text sorts as time does."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _dead_letter_id(line: bytes) -> str:
    return event_id_of(_decode_dead_letter(line).event)


def _ids_since(folder: Path, day: str, id_of: Callable[[bytes], str]) -> set[str]:
    """Return the ids in a folder's files of `day` (yyyy-mm-dd) and later."""
    ids = set()
    for path in folder.glob("*.jsonl"):
        for line in read_lines(path) if path.stem >= day else ():
            # a line that somebody has damaged tells of no event, which is then sent again
            with suppress(msgspec.DecodeError):
                ids.add(id_of(line))
    return ids


def _rounds(events: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Cut events into lists of at most ROUND_EVENTS, and about ROUND_BYTES."""
    cut: list[bytes] = []
    size = 0
    for event in events:
        cut.append(event)
        size += len(event)
        if len(cut) == ROUND_EVENTS or size >= ROUND_BYTES:
            yield cut
            cut, size = [], 0
    if cut:
        yield cut


def _on_one_line(record: bytes) -> msgspec.Raw | str:
    """Return a record without the newlines that JSON allows between its parts."""
    try:
        return msgspec.Raw(msgspec.json.format(record, indent=-1).decode().encode())
    except ValueError:  # half a surrogate pair, or no UTF-8: kept as text that can be read
        return record.decode(errors="replace")


def _in_blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    source = iter(lines)
    while block := list(islice(source, 1000)):
        yield b"\n".join(block) + b"\n"
