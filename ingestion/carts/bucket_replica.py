"""The state in a bucket: what `Replica` promises, kept with a head that is swapped. See head.py.

    gs://NAME/near_realtime/
        head.json                                       the one object that is replaced
        state/{epoch}-{chance}.json                     a state's file
        outbox/{batch}.{epoch}-{chance}.jsonl           a batch, {batch} as in events/outbox/
        published/{day}/{batch}.{epoch}-{chance}.jsonl  what has left of a batch in one round
        dead_letter/{day}/...  quarantine/{day}/...     as in events/dead_letter/ and quarantine/

All but the head are written once, and no name is used twice.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ingestion.bucket_errors import BucketRefusedError, BucketUnreachableError
from ingestion.carts.checkpoint import Binding, Checkpoint
from ingestion.carts.event_batch import GENERATION, Batch, format_time
from ingestion.carts.event_store import DeadLetter, Position
from ingestion.carts.head import Head, HeadLease, PendingBatch
from ingestion.carts.publishing import RoundResult
from ingestion.carts.replica import BUCKET_FOLDER, LeaseLostError, Replica, StateElsewhere
from ingestion.carts.state import StateError, StateHeader, read_header
from ingestion.carts.working_copy import WorkingCopy, label_of
from ingestion.durable_files import failpoint
from ingestion.objects import ObjectFolder, Patience, StoredObject
from ingestion.settings import storage_client

log = logging.getLogger(__name__)

# an attempt of a small call, and all of its attempts together
CALL_SECONDS = 4.0
# where a test may kill the process, besides the steps of the working copy; in their order
BUCKET_STEPS = (
    "head-taken",
    "copy-rebuilt",
    "batch-uploaded",
    "state-uploaded",
    "head-committed",
    "round-recorded",
    "head-forgotten",
    "letters-replayed",
    "garbage-deleted",
    "head-released",
)
GENERATION_NAME = re.compile(GENERATION)
# a head is written with every swap, so that a longer header stays with its state
MAX_HEADER_BYTES = 100_000
# a round ends so long before the lease does, as a share of what is left of it
ROUND_SHARE = 0.8


class BucketReplica(Replica):
    """The bucket as one process works with it."""

    def __init__(
        self,
        objects: ObjectFolder,
        lease: HeadLease,
        copy: WorkingCopy,
        binding: Binding,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Ask nothing yet."""
        self._objects = objects
        self._lease = lease
        self._copy = copy
        self._binding = binding
        self._now = now
        self._epoch = 0
        # the working copy is what the head says, so that the head may be renewed unread
        self._is_clean = False
        # what the outbox holds is in the head, so that it may be published
        self._is_committed = False
        self._elsewhere: StateElsewhere | None = None
        self._noted: dict[str, Any] = {}
        self._unrecorded: list[tuple[str, bytes]] = []
        self._garbage: list[str] = []
        self._letters: set[str] = set()

    def begin_poll(self) -> None:
        """Renew the head, or take it and rebuild the working copy from it."""
        if self._renew():
            return
        self._copy.claim(self._binding)
        self._is_committed = False
        head = self._lease.take()
        failpoint("head-taken")
        is_new = head.epoch != self._epoch
        self._epoch = head.epoch
        self._rebuild(head, is_new=is_new)
        if self._lease.taken_from:
            self._delete_orphans(head)
        self._is_committed = True
        failpoint("copy-rebuilt")

    def look(self) -> None:
        """Rebuild the working copy without taking the head, to read and no more."""
        self._rebuild(self._lease.look(), is_new=True)

    def head(self) -> Head:
        """Return what the head says; the working copy stays as it is."""
        return self._lease.look()

    def state_elsewhere(self) -> StateElsewhere | None:
        """Return what the head says of a state that has not been fetched."""
        return self._elsewhere

    def fetch_state(self) -> None:
        """Fetch the state; StateError where the object has gone."""
        stored = self._lease.head.state
        if not stored:
            return
        try:
            self._copy.fetch_state(stored, self._objects)
        except FileNotFoundError as error:
            raise StateError(f"{error}. Nothing was changed.") from None
        self._elsewhere = None

    def commit(self, batch: Batch | None, *, is_state_saved: bool) -> None:
        """Write batch and state, and swap the head; the time of a poll alone goes with the next."""
        self._is_committed = False
        self._note_good_poll(self._copy.last_good_poll())
        if batch or is_state_saved:
            former = self._lease.head.state
            self._lease.swap(**self._written(batch, is_state_saved=is_state_saved))
            self._elsewhere = None
            failpoint("head-committed")
            self._delete([former.name] if former and is_state_saved else [])
        self._is_clean = self._is_committed = True

    def publish_deadline(self) -> float:
        """Renew a lease that is half over, and return when a round has to have ended."""
        if not (self._is_committed and self._lease.is_held):
            raise BucketUnreachableError("What lies here is not committed to the bucket")
        if self._lease.seconds_left() < self._lease.seconds / 2:
            self._lease.swap()
        return time.monotonic() + self._lease.seconds_left() * ROUND_SHARE

    def record(self, batch: Batch | None, result: RoundResult) -> None:
        """Write what has left and what was rejected, each as an object."""
        name = self._round_name(label_of(batch) if batch else "replay")
        failed_at = format_time(self._now())
        letters = [
            msgspec.json.encode(DeadLetter(msgspec.Raw(each.event), each.reason, failed_at))
            for each in result.rejected
        ]
        for folder, lines in (("dead_letter", letters), ("published", result.acknowledged)):
            if lines:
                self._unrecorded.append((f"{folder}/{name}", _as_lines(lines)))
        self._write_unrecorded()
        failpoint("round-recorded")

    def replayed(self, dead_letters: Path) -> None:
        """Write what is left of a day's dead letters, and delete the objects that it came from."""
        day = f"dead_letter/{dead_letters.stem}/"
        before = sorted(name for name in self._letters if name.startswith(day))
        if dead_letters.exists():
            name = f"{day}replay.{self._unique()}.jsonl"
            self._objects.write_once(name, dead_letters.read_bytes())
            self._letters.add(name)
        self._letters.difference_update(before)
        self._lease.swap(dead_letters=self._copy.dead_letter_count())
        failpoint("letters-replayed")
        self._delete(before)

    def forget(self, batch: Batch) -> None:
        """Swap a batch out of pending, once all that has left of it is written."""
        self._write_unrecorded()
        file = batch.path.name
        pending = self._lease.head.pending
        self._lease.swap(
            pending=tuple(each for each in pending if each.file != file),
            checkpoint=self._copy.checkpoint(),
            dead_letters=self._copy.dead_letter_count(),
        )
        failpoint("head-forgotten")
        self._delete([each.stored.name for each in pending if each.file == file])

    def release(self) -> None:
        """Give the head back; where that fails, the lease runs out by itself."""
        if not self._lease.is_held:
            return
        try:
            self._lease.release(**self._noted)
        except (LeaseLostError, BucketUnreachableError, BucketRefusedError) as error:
            log.warning("the head was not released, its lease has to run out: %s", error)
        failpoint("head-released")

    def _renew(self) -> bool:
        """Renew the head unread, where the working copy is certainly what it says."""
        if not (self._is_clean and self._lease.is_held):
            return False
        self._is_clean = False
        try:
            self._lease.swap(**self._noted)
        except LeaseLostError:
            return False
        return True

    def _rebuild(self, head: Head, *, is_new: bool) -> None:
        self._copy.rebuild(head, self._objects, is_new=is_new)
        if not head.checkpoint:
            self._remember_lost_generations()
        if is_new:
            self._letters = self._copy.rebuild_dead_letters(head, self._objects)
            self._copy.new_quarantine()
            self._unrecorded.clear()
            if acknowledged := self._copy.exchange_published(head, self._objects):
                name = self._round_name(head.pending[0].file.removesuffix(".jsonl"))
                self._unrecorded.append((f"published/{name}", _as_lines(acknowledged)))
        self._elsewhere = None
        if head.state and not self._copy.has_state(head.state):
            if head.header:
                self._elsewhere = StateElsewhere(f"{head.epoch}/{head.state.name}", head.header)
            else:
                self.fetch_state()

    def _remember_lost_generations(self) -> None:
        """Let a new generation sort after all of those whose head has been lost."""
        names = [*self._objects.names("published/"), *self._objects.names("outbox/")]
        generations = {name.rpartition("/")[2].partition(".")[0] for name in names}
        newest = max(filter(GENERATION_NAME.fullmatch, generations), default=None)
        if newest:
            log.warning("the head is gone: a new snapshot follows on generation=%s", newest)
            # nothing of it is pending any more, whatever number it had come to
            place = Position()
            lost = Checkpoint(binding=self._binding, generation=newest, batch=1, published=place)
            self._copy.write_checkpoint(lost, place)

    def _written(self, batch: Batch | None, *, is_state_saved: bool) -> dict[str, Any]:
        """Write what a commit names, and return how the head says it."""
        for day, lines in self._copy.new_quarantine().items():
            self._objects.write_once(f"quarantine/{day}/{self._unique()}.jsonl", lines)
        changes: dict[str, Any] = {"checkpoint": self._copy.checkpoint()}
        if batch:
            name = f"outbox/{label_of(batch)}.{self._unique()}.jsonl"
            stored = self._objects.upload_once(name, batch.path)
            pending = PendingBatch(batch.path.name, batch.header().events, stored)
            changes["pending"] = (*self._lease.head.pending, pending)
            failpoint("batch-uploaded")
        if is_state_saved:
            header = read_header(self._copy.state_file)
            self._note_good_poll(header.observed_at)
            changes |= {
                **self._noted,
                "state": self._upload_state(),
                "carts": header.cart_count,
                "held_deletions": len(header.held_deletions.cart_ids),
                "header": header if _is_short(header) else None,
            }
            failpoint("state-uploaded")
        return changes

    def _note_good_poll(self, observed_at: str | None) -> None:
        known = (observed_at, self._noted.get("last_good_poll"), self._lease.head.last_good_poll)
        self._noted = {"last_good_poll": max(filter(None, known), default=None)}

    def _upload_state(self) -> StoredObject:
        name = f"state/{self._unique()}.json"
        return self._objects.upload_once(name, self._copy.state_file)

    def _write_unrecorded(self) -> None:
        while self._unrecorded:
            name, content = self._unrecorded[0]
            self._objects.write_once(name, content)
            if name.startswith("dead_letter/"):
                self._letters.add(name)
            del self._unrecorded[0]

    def _delete(self, names: Iterable[str]) -> None:
        """Delete what no head names any more; what cannot be deleted now is tried again later."""
        self._garbage.extend(names)
        with suppress(BucketUnreachableError, BucketRefusedError):
            while self._garbage:
                self._objects.delete(self._garbage[0])
                del self._garbage[0]
        failpoint("garbage-deleted")

    def _delete_orphans(self, head: Head) -> None:
        """Delete what those who died had written and not committed: older epochs' only."""
        named = {each.stored.name for each in head.pending}
        named |= {head.state.name} if head.state else set()
        found = [*self._objects.names("state/"), *self._objects.names("outbox/")]
        self._delete(name for name in found if name not in named and _epoch_of(name) < head.epoch)

    def _round_name(self, label: str) -> str:
        return f"{self._now():%Y-%m-%d}/{label}.{self._unique()}.jsonl"

    def _unique(self) -> str:
        return f"{self._epoch:08d}-{secrets.token_hex(8)}"


def open_bucket(
    project_id: str,
    bucket_name: str,
    state_file: Path,
    events_dir: Path,
    binding: Binding,
    lease_seconds: float,
    seconds_left: Callable[[], float],
) -> BucketReplica:
    """Return the replica in a bucket; a signal makes what `seconds_left` says finite."""
    bucket = storage_client(project_id).bucket(bucket_name)
    objects = ObjectFolder(bucket, BUCKET_FOLDER, Patience(CALL_SECONDS, seconds_left))
    where = os.environ.get("CLOUD_RUN_EXECUTION") or socket.gethostname()
    holder = f"{where} pid {os.getpid()} {secrets.token_hex(4)}"
    lease = HeadLease(objects, holder, lease_seconds)
    return BucketReplica(objects, lease, WorkingCopy(state_file, events_dir), binding)


def _as_lines(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _is_short(header: StateHeader) -> bool:
    return len(msgspec.json.encode(header)) <= MAX_HEADER_BYTES


def _epoch_of(name: str) -> int:
    """Return the epoch in which an object was written."""
    return int(name.rpartition("-")[0].rpartition("/")[2].rpartition(".")[2])
