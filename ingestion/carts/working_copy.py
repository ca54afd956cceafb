"""The local files as a working copy of a state in a bucket: rebuilt from the head, never trusted.

What the head says is put here: checkpoint, outbox, the note of the last good poll; and of the
event store what a poll looks at: the dead letters, and what has left of the oldest batch. The
state's file stays where its checksum is the head's.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import date, datetime, timedelta
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ingestion.carts.checkpoint import Binding, Checkpoint, CheckpointFile
from ingestion.carts.event_batch import Batch, batch_at
from ingestion.carts.event_store import Position
from ingestion.carts.head import Head
from ingestion.carts.recovery import MadeForAnotherError
from ingestion.carts.state_file import LastPoll, last_poll_file
from ingestion.durable_files import replace_file
from ingestion.objects import ObjectFolder, StoredObject, crc32c_of_file

STORE_FOLDERS = ("published", "dead_letter", "quarantine")


class WorkingCopy:
    """A state's file and an events folder, which belong to a bucket or to nobody yet."""

    def __init__(self, state_file: Path, events_dir: Path) -> None:
        """Look at nothing yet."""
        self.state_file = state_file
        self.events_dir = events_dir
        self._outbox = events_dir / "outbox"
        # the checksum of the state's file as it was at (inode, size, time)
        self._known: tuple[tuple[int, int, int], str] | None = None

    def claim(self, binding: Binding) -> None:
        """Raise MadeForAnotherError where a state lies here that is no copy of the bucket's."""
        checkpoint = self.checkpoint()
        if checkpoint and checkpoint.binding.state_file == binding.state_file:
            return
        if checkpoint or self.state_file.exists() or any(map(batch_at, self._outbox.glob("*"))):
            raise MadeForAnotherError(
                f"{self.state_file} and {self.events_dir} hold a state that is no working copy of "
                f"{binding.state_file}"
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

    def rebuild(self, head: Head, objects: ObjectFolder, *, is_new: bool) -> None:
        """Make what a poll goes on from what the head says, and drop a state that is another."""
        # the first to come and the last to go: it says whose working copy this is
        if head.checkpoint and (is_new or not _is_same(self.checkpoint(), head.checkpoint)):
            self.write_checkpoint(head.checkpoint)
        self._rebuild_outbox(head, objects)
        if head.last_good_poll and head.checkpoint:
            note = LastPoll(head.checkpoint.generation, head.last_good_poll)
            file = last_poll_file(self.state_file)
            replace_file(file, [msgspec.json.encode(note)], "last_poll", durable=False)
        if not self.has_state(head.state):
            self.state_file.unlink(missing_ok=True)
        if not head.checkpoint:
            CheckpointFile(self.events_dir).path.unlink(missing_ok=True)

    def rebuild_store(self, head: Head, objects: ObjectFolder) -> set[str]:
        """Make the event store anew, as far as a poll reads it; return the dead letters' names."""
        for folder in STORE_FOLDERS:
            for path in (self.events_dir / folder).glob("*.jsonl"):
                path.unlink()
        if not (head.pending or head.dead_letters):
            return set()
        letters = objects.names("dead_letter/")
        published: list[str] = []
        if head.pending:
            label, first_day = self._oldest_batch()
            names = objects.names("published/", f"published/{first_day}")
            published = [name for name in names if f"/{label}." in name]
        for name in (*letters, *published):
            found = objects.read(name)
            # `folder/day/...` in the bucket is the file `folder/day.jsonl` here
            file = (self.events_dir / name).parent.with_suffix(".jsonl")
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as lines:
                lines.write(found[0] if found else b"")
        return set(letters)

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; what has been published here is looked at from its beginning."""
        checkpoint = replace(checkpoint, published=Position())
        path = CheckpointFile(self.events_dir).path
        replace_file(path, [msgspec.json.encode(checkpoint) + b"\n"], "checkpoint")

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
        files = (self.events_dir / "dead_letter").glob("*.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files)

    def new_quarantine(self, seen: defaultdict[str, int]) -> dict[str, bytes]:
        """Return by day what has come to the quarantine since the sizes in `seen`; move them on."""
        found = {}
        for path in sorted((self.events_dir / "quarantine").glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(seen[path.stem])
                if lines := file.read():
                    found[path.stem] = lines
                    seen[path.stem] += len(lines)
        return found

    def _oldest_batch(self) -> tuple[str, date]:
        """Return the label of the oldest batch, and the first day that may have seen it leave."""
        batch = min(filter(None, map(batch_at, self._outbox.glob("*"))), key=label_of)
        observed_at = datetime.fromisoformat(batch.header().observed_at)
        # the clocks of two machines may differ at midnight; by more, and it leaves once more
        return label_of(batch), observed_at.date() - timedelta(days=1)

    def _rebuild_outbox(self, head: Head, objects: ObjectFolder) -> None:
        pending = {batch.file: batch.stored for batch in head.pending}
        for path in self._outbox.glob("*"):
            stored = pending.get(path.name)
            if stored and crc32c_of_file(path) == stored.crc32c:
                del pending[path.name]
            elif stored or batch_at(path):
                path.unlink()
        for name, stored in pending.items():
            _fetch(stored, objects, self._outbox / name)


def _is_same(here: Checkpoint | None, there: Checkpoint) -> bool:
    """Tell whether two checkpoints differ in nothing but their place in the event store."""
    return here is not None and replace(here, published=there.published) == there


def label_of(batch: Batch) -> str:
    """Return by what the objects of a batch are found."""
    return f"{batch.generation}.{batch.number:010d}"


def _fetch(stored: StoredObject, objects: ObjectFolder, file: Path) -> None:
    temporary = file.with_name(f"{file.name}.fetched")
    try:
        objects.download(stored, temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
