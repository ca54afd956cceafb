"""The local files as a working copy of a state in a bucket: rebuilt from the head, never trusted.

What the head says is put here: checkpoint, outbox, the note of the last good poll, the dead
letters, and what has left of the oldest batch. The state's file stays where its checksum is the
head's, and `published/` goes on: it has what left while this disk was there, the bucket has all.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ingestion.carts.checkpoint import Binding, Checkpoint, CheckpointFile
from ingestion.carts.event_batch import Batch, batch_at, event_id_of
from ingestion.carts.event_store import EventStore, Position
from ingestion.carts.head import Head
from ingestion.carts.publishing import RoundResult
from ingestion.carts.state_file import LastPoll, last_poll_file
from ingestion.checksum import crc32c_of_file
from ingestion.durable_files import replace_file
from ingestion.objects import ObjectFolder, StoredObject
from ingestion.settings import ConfigurationError

log = logging.getLogger(__name__)


class WorkingCopy:
    """A state's file and an events folder, which belong to a bucket or to nobody yet."""

    def __init__(self, state_file: Path, events_dir: Path) -> None:
        """Look at nothing yet."""
        self.state_file = state_file
        self.events_dir = events_dir
        self._outbox = events_dir / "outbox"
        self._store = EventStore(events_dir, lambda: datetime.now(UTC))
        self._quarantined: defaultdict[str, int] = defaultdict(int)
        # the checksum of the state's file as it was at (inode, size, time)
        self._known: tuple[tuple[int, int, int], str] | None = None

    def claim(self, binding: Binding) -> None:
        """Raise ConfigurationError where a state lies here that is no copy of the bucket's."""
        file = CheckpointFile(self.events_dir)
        file.load(ignores_damage=True)
        if file.current and file.current.binding.state_file == binding.state_file:
            return
        is_used = file.current or file.is_damaged or self.state_file.exists()
        if is_used or any(map(batch_at, self._outbox.glob("*"))):
            raise ConfigurationError(
                f"{self.state_file} and {self.events_dir} hold a state that is no working copy of "
                f"{binding.state_file}, or a damaged one: give this run a --state-file and an "
                f"--events-dir of its own, or move them away."
            )

    def checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint as it lies here."""
        file = CheckpointFile(self.events_dir)
        file.load()
        return file.current

    def last_good_poll(self) -> str | None:
        """Return the note of the last good poll, where there is one."""
        try:
            note = msgspec.json.decode(last_poll_file(self.state_file).read_bytes(), type=LastPoll)
        except (OSError, ValueError):
            return None
        return note.observed_at

    def rebuild(self, head: Head, objects: ObjectFolder, *, is_new: bool) -> set[str]:
        """Make what a poll goes on from what the head says, and drop a state that is another.

        Returns the files of those batches whose objects have gone.
        """
        # the first to come and the last to go: it says whose working copy this is
        if head.checkpoint and (is_new or not _is_same(self.checkpoint(), head.checkpoint)):
            self.write_checkpoint(head.checkpoint, Position())
        gone = self._rebuild_outbox(head, objects)
        if head.last_good_poll and head.checkpoint:
            note = LastPoll(head.checkpoint.generation, head.last_good_poll)
            file = last_poll_file(self.state_file)
            replace_file(file, [msgspec.json.encode(note)], "last_poll", durable=False)
        if not self.has_state(head.state):
            self.state_file.unlink(missing_ok=True)
        elif is_new:
            # whoever has it open reads it anew, and the checkpoint with it
            self.state_file.touch()
        return gone

    def rebuild_dead_letters(self, head: Head, objects: ObjectFolder) -> set[str]:
        """Make the dead letters those of the bucket, and return the names of their objects."""
        for path in self._store.dead_letter_files():
            path.unlink()
        # a batch that is pending may have some that no head has counted yet
        names = objects.names("dead_letter/") if head.pending or head.dead_letters else []
        for name in names:
            found = objects.read(name)
            # dead_letter/{day}/... in the bucket is dead_letter/{day}.jsonl here
            file = (self.events_dir / name).parent.with_suffix(".jsonl")
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as lines:
                lines.write(found[0] if found else b"")
        return set(names)

    def exchange_published(self, head: Head, objects: ObjectFolder) -> list[bytes]:
        """Learn what has left of the oldest batch; return what left and the bucket does not know.

        Such events were acknowledged here just before a kill.
        """
        if not head.checkpoint:
            return []
        batches = filter(None, map(batch_at, self._outbox.glob("*")))
        batch = min(batches, key=label_of, default=None)
        if not batch:
            self.write_checkpoint(head.checkpoint, self._store.position())
            return []
        # were the clocks to differ by more, it would leave once more
        day = day_before(batch.header().observed_at)
        self.write_checkpoint(head.checkpoint, Position(day))
        ids = {event_id for event_id, _ in batch.identified()}
        here = _those_of(ids, self._store.published_since(Position(day)))
        names = objects.names("published/", f"published/{day}")
        found = (objects.read(name) for name in names if f"/{label_of(batch)}." in name)
        there = _those_of(ids, (line for each in found if each for line in each[0].splitlines()))
        self._store.settle(RoundResult([there[key] for key in there.keys() - here.keys()]))
        return [here[key] for key in here.keys() - there.keys()]

    def write_checkpoint(self, checkpoint: Checkpoint, published: Position) -> None:
        """Write a checkpoint, with the place in this disk's own event store."""
        checkpoint = replace(checkpoint, published=published)
        path = CheckpointFile(self.events_dir).path
        replace_file(path, [msgspec.json.encode(checkpoint) + b"\n"], "checkpoint")

    def begin_anew(self, binding: Binding, newest: str) -> None:
        """Let a new generation sort after `newest` and what was begun here: their head is lost."""
        here = self.checkpoint()
        known = max(newest, here.generation if here else "")
        if not known:
            return
        log.warning(
            "the bucket has no state, and generation=%s was begun before: a new snapshot of all "
            "carts follows on it",
            known,
        )
        # nothing of it is pending any more, whatever number it had come to
        place = Position()
        lost = Checkpoint(binding=binding, generation=known, batch=1, published=place)
        self.write_checkpoint(lost, place)

    def has_state(self, stored: StoredObject | None) -> bool:
        """Tell whether the state's file is this object, by its size and checksum."""
        try:
            status = self.state_file.stat()
        except FileNotFoundError:
            return False
        if not stored or status.st_size != stored.size:
            return False
        identity = status.st_ino, status.st_size, status.st_mtime_ns
        if not self._known or self._known[0] != identity:
            self._known = identity, crc32c_of_file(self.state_file)
        return self._known[1] == stored.crc32c

    def fetch_state(self, stored: StoredObject, objects: ObjectFolder) -> None:
        """Put the state's file here."""
        _fetch(stored, objects, self.state_file)

    def dead_letter_count(self) -> int:
        """Return how many dead letters lie here."""
        return self._store.dead_letter_count()

    def new_quarantine(self) -> dict[str, bytes]:
        """Return by day what has come to the quarantine since it was last asked for."""
        found = {}
        for path in sorted((self.events_dir / "quarantine").glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._quarantined[path.stem])
                if lines := file.read():
                    found[path.stem] = lines
                    self._quarantined[path.stem] += len(lines)
        return found

    def _rebuild_outbox(self, head: Head, objects: ObjectFolder) -> set[str]:
        pending = {batch.file: batch.stored for batch in head.pending}
        for path in self._outbox.glob("*"):
            stored = pending.get(path.name)
            if stored and crc32c_of_file(path) == stored.crc32c:
                del pending[path.name]
            elif stored or batch_at(path):
                path.unlink()
        gone = set()
        for name, stored in pending.items():
            try:
                _fetch(stored, objects, self._outbox / name)
            except FileNotFoundError as error:
                log.warning("%s, and the head counts on it", error)
                gone.add(name)
        return gone


def _is_same(here: Checkpoint | None, there: Checkpoint) -> bool:
    """Tell whether two checkpoints differ in nothing but their place in the event store."""
    return here is not None and replace(here, published=there.published) == there


def day_before(moment: str | None) -> str:
    """Return a day from which on all lies that came after `moment`, as any machine's clock has it.

    The clocks of two machines may differ at midnight.
    """
    return f"{datetime.fromisoformat(moment).date() - timedelta(days=1)}" if moment else ""


def label_of(batch: Batch) -> str:
    """Return by what the objects of a batch are found."""
    return f"{batch.generation}.{batch.number:010d}"


def _those_of(ids: set[str], lines: Iterable[bytes]) -> dict[str, bytes]:
    """Return those events by id; a line that somebody has damaged is none."""
    found = {}
    for line in lines:
        with suppress(ValueError):
            if (event_id := event_id_of(line)) in ids:
                found[event_id] = line
    return found


def _fetch(stored: StoredObject, objects: ObjectFolder, file: Path) -> None:
    temporary = file.with_name(f"{file.name}.fetched")
    try:
        objects.download(stored, temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
