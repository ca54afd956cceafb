"""The events that have left the outbox, and what could not leave: files of lines, one a UTC day.

    events/published/{yyyy-mm-dd}.jsonl    the events that were acknowledged, in that order
    events/dead_letter/{yyyy-mm-dd}.jsonl  the events that Pub/Sub rejected, and why
    events/quarantine/{yyyy-mm-dd}.jsonl   the records of the API that are no carts, and why

The newest file only ever grows: where the clock has been set back since, the lines of today go
into it too, so that the order of the names is the order of time whatever the clock said.

A restart looks into `published/` for the part of the oldest batch that need not be published
again. The checkpoint says from where on, so a start reads no day before it; only a generation that
begins looks through all. Every day but the newest may be moved away or deleted at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Annotated

import msgspec

from ingestion.carts.event_batch import GENERATION, event_id_of, format_time
from ingestion.carts.publishing import RoundResult
from ingestion.durable_files import append_lines, end_last_line, read_lines

# other files are somebody's own
_DAYS = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].jsonl"


class Position(msgspec.Struct, frozen=True):
    """An end of `published/`: the newest file's day, and its size in bytes."""

    day: str = ""
    size: int = 0


class DeadLetter(msgspec.Struct):
    """A line of a dead-letter file."""

    event: msgspec.Raw
    reason: str
    failed_at: str


class _Addressed(msgspec.Struct):
    id: str
    partitionkey: str
    generation: Annotated[str, msgspec.Meta(pattern=f"^{GENERATION}$")]


class _CartId(msgspec.Struct):
    cart_id: int


class _Sequenced(msgspec.Struct):
    generation: str
    sequence: str
    data: _CartId


_decode_sequenced = msgspec.json.Decoder(_Sequenced).decode
_decode_dead_letter = msgspec.json.Decoder(DeadLetter).decode
_decode_addressed = msgspec.json.Decoder(_Addressed).decode


class EventStore:
    """The three folders; files are named for the day of `now`, where that is no step back."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        """Look into `folder`, which need not exist."""
        self._published = folder / "published"
        self.dead_letters = folder / "dead_letter"
        self._quarantine = folder / "quarantine"
        self._now = now

    def settle(self, result: RoundResult) -> None:
        """Keep what became of a round, so that none of it is published again."""
        failed_at = format_time(self._now())
        letters = [
            DeadLetter(msgspec.Raw(rejection.event), rejection.reason, failed_at)
            for rejection in result.rejected
        ]
        self._append(self.dead_letters, [msgspec.json.encode(letter) for letter in letters])
        self._append(self._published, result.acknowledged)

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

    def position(self) -> Position:
        """Return the end of what has been published."""
        newest = max(self._published.glob(_DAYS), default=None)
        return Position(newest.stem, newest.stat().st_size) if newest else Position()

    def published_since(self, position: Position) -> Iterator[bytes]:
        """Yield what was appended after `position`."""
        for path in sorted(self._published.glob(_DAYS)):
            if path.stem >= position.day:
                yield from read_lines(path, position.size if path.stem == position.day else 0)

    def settled_since(self, position: Position) -> set[str]:
        """Return the ids of the events that were acknowledged or rejected after `position`."""
        ids = set()
        for line in self.published_since(position):
            # a line that somebody has damaged tells of no event, which is then published again
            with suppress(ValueError):
                ids.add(event_id_of(line))
        first = min(position.day, f"{self._now():%Y-%m-%d}")
        for path in self.dead_letter_files():
            for letter in dead_letters_in(path) if path.stem >= first else ():
                ids.add(event_id_of(letter))
        return ids

    def sequences_since(self, position: Position, generation: str) -> dict[int, str]:
        """Return the highest sequence of each cart among dead letters and what left since then."""
        highest: dict[int, str] = {}
        for document in chain(self.published_since(position), self._dead_events()):
            with suppress(ValueError):
                event = _decode_sequenced(document)
                if event.generation == generation:
                    cart_id = event.data.cart_id
                    highest[cart_id] = max(highest.get(cart_id, ""), event.sequence)
        return highest

    def newest_generation(self, position: Position) -> str:
        """Return the newest generation among dead letters and what left after `position`."""
        newest = ""
        for document in chain(self.published_since(position), self._dead_events()):
            with suppress(ValueError):
                newest = max(newest, _decode_addressed(document).generation)
        return newest

    def all_events(self) -> Iterator[bytes]:
        """Yield all that lies here of what was acknowledged or rejected."""
        return chain(self.published_since(Position()), self._dead_events())

    def dead_letter_files(self) -> list[Path]:
        """Return the files of dead letters, oldest first."""
        return sorted(self.dead_letters.glob(_DAYS))

    def dead_letter_count(self) -> int:
        """Return how many lines lie among the dead letters, damaged ones too."""
        lines = (line for path in self.dead_letter_files() for line in read_lines(path))
        return sum(1 for line in lines if line.strip())

    def _dead_events(self) -> Iterator[bytes]:
        return chain.from_iterable(map(dead_letters_in, self.dead_letter_files()))

    def _append(self, folder: Path, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        today = folder / f"{self._now():%Y-%m-%d}.jsonl"
        newest = max(folder.glob(_DAYS), default=today)
        if newest < today:
            end_last_line(newest)
        append_lines(max(newest, today), lines, folder.name)


def event_of_letter(line: bytes) -> bytes:
    """Return the event of a line of dead letters; ValueError where there is none to publish."""
    event = bytes(_decode_dead_letter(line).event)
    _decode_addressed(event)
    return event


def dead_letters_in(path: Path) -> Iterator[bytes]:
    """Yield the events of a file of dead letters; lines that are none are passed over."""
    for line in read_lines(path):
        with suppress(ValueError):
            yield event_of_letter(line)


def _on_one_line(record: bytes) -> msgspec.Raw | str:
    """Return a record without the newlines that JSON allows between its parts."""
    try:
        return msgspec.Raw(msgspec.json.format(record, indent=-1).decode().encode())
    except ValueError:  # half a surrogate pair, or no UTF-8: kept as text that can be read
        return record.decode(errors="replace")
