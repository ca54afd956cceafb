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
import secrets
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ingestion.bucket_errors import BucketRefusedError, BucketUnreachableError
from ingestion.carts.bucket_objects import (
    EventObjects,
    Garbage,
    ObjectNames,
    newest_generation,
    newest_label,
)
from ingestion.carts.checkpoint import Binding
from ingestion.carts.event_batch import Batch, format_time
from ingestion.carts.head import Head, HeadLease, PendingBatch
from ingestion.carts.lease_errors import LeaseLostError
from ingestion.carts.publishing import RoundResult
from ingestion.carts.recovery import OLD_COPY
from ingestion.carts.replica import BUCKET_FOLDER, Replica, StateElsewhere
from ingestion.carts.state import StateError, StateHeader, read_header
from ingestion.carts.working_copy import WorkingCopy, day_before, label_of
from ingestion.durable_files import failpoint
from ingestion.objects import ObjectFolder, Patience
from ingestion.settings import setting, storage_client

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
# a head is written with every swap, so that a longer header stays with its state
MAX_HEADER_BYTES = 100_000
# after so long without a good poll an unchanged one asks, too, whether its head is the newest: one
# that somebody has put back is old, and to ask at each poll would be a call more
LOOK_SECONDS = 900.0
# a round ends so long before the lease does, as a share of what is left of it
ROUND_SHARE = 0.8


class BucketReplica(Replica):
    """The bucket as one process works with it."""

    def __init__(
        self, objects: ObjectFolder, lease: HeadLease, copy: WorkingCopy, binding: Binding
    ) -> None:
        """Ask nothing yet."""
        self._objects = objects
        # a large state takes longer than a lease
        self._objects.between_pieces = lease.renew_in_time
        self._lease = lease
        self._copy = copy
        self._binding = binding
        self._names = ObjectNames()
        self._events = EventObjects(objects, self._names, lambda: datetime.now(UTC))
        self._garbage = Garbage(objects)
        # the working copy is what the head says, so that the head may be renewed unread
        self._is_clean = False
        # what the outbox holds is in the head, so that it may be published
        self._is_committed = False
        self._elsewhere: StateElsewhere | None = None
        # a state and pending batches that nobody has any more: a new snapshot makes up for them
        self._lost_state: StateError | None = None
        self._gone: set[str] = set()
        self._noted: dict[str, Any] = {}

    def begin_poll(self) -> None:
        """Renew the head, or take it and rebuild the working copy from it."""
        if self._renew():
            return
        self._copy.claim(self._binding)
        self._is_committed = False
        head = self._lease.take()
        failpoint("head-taken")
        is_new = head.epoch != self._names.epoch
        self._names.epoch = head.epoch
        self._rebuild(head, is_new=is_new)
        if self._lease.taken_from or not is_new:
            # one of another, or of ours, did not end as it should, and the next may not either
            self._delete_orphans()
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

    def check_state(self) -> None:
        """Raise StateError where the state could not be fetched, and its header is not known."""
        if self._lost_state:
            raise self._lost_state

    def fetch_state(self) -> None:
        """Fetch the state; StateError where the object has gone."""
        try:
            if stored := self._lease.head.state:
                self._copy.fetch_state(stored, self._objects)
        except FileNotFoundError as error:
            raise StateError(f"{error}. Nothing was changed.") from None
        self._elsewhere = None

    def newest_generation(self) -> str:
        """Return the newest generation of which anything lies in the bucket."""
        return newest_generation(self._objects)

    def commit(self, batch: Batch | None, *, is_state_saved: bool) -> None:
        """Write batch and state, and swap the head; the time of a poll alone goes with the next."""
        self._is_committed = False
        head = self._lease.head
        self._note_good_poll(self._copy.last_good_poll())
        if is_state_saved or _is_long(head.last_good_poll, self._noted["last_good_poll"]):
            _check_that_head_is_newest(head, batch, self._objects)
        if is_state_saved:
            self._lease.swap(**self._written(batch))
            self._elsewhere = None
            failpoint("head-committed")
            # the former state, and what a sleeper or a refused deletion has left behind
            self._delete_orphans()
        self._is_clean = self._is_committed = True

    def publish_deadline(self) -> float:
        """Renew a lease that is half over, and return when a round has to have ended."""
        if not (self._is_committed and self._lease.is_held):
            raise BucketUnreachableError("What lies here is not committed to the bucket")
        self._lease.renew_in_time()
        return time.monotonic() + self._lease.seconds_left() * ROUND_SHARE

    def record(self, batch: Batch | None, result: RoundResult) -> None:
        """Write what has left and what was rejected, each as an object."""
        self._events.write(label_of(batch) if batch else "replay", result)
        failpoint("round-recorded")

    def replayed(self, dead_letters: Path) -> None:
        """Write what is left of a day's dead letters, and delete the objects that it came from."""
        before = self._events.replace_letters(dead_letters)
        self._lease.swap(dead_letters=self._copy.dead_letter_count())
        failpoint("letters-replayed")
        self._garbage.delete(before)

    def forget(self, batch: Batch) -> None:
        """Swap a batch out of pending, once all that has left of it is written."""
        self._events.write_waiting()
        file = batch.path.name
        pending = self._lease.head.pending
        self._lease.swap(
            pending=tuple(each for each in pending if each.file != file),
            checkpoint=self._copy.checkpoint(),
            dead_letters=self._copy.dead_letter_count(),
        )
        failpoint("head-forgotten")
        self._garbage.delete([each.stored.name for each in pending if each.file == file])

    def release(self) -> None:
        """Give the head back; where that fails, the lease runs out by itself."""
        if not self._lease.is_held:
            return
        try:
            self._lease.release(**self._noted)
        except (LeaseLostError, BucketUnreachableError, BucketRefusedError) as error:
            log.warning("the head was not released, its lease has to run out: %s", error)
        failpoint("head-released")

    def _delete_orphans(self) -> None:
        self._garbage.delete_orphans(self._lease.head.objects(), self._names.epoch)

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
        self._gone = self._copy.rebuild(head, self._objects, is_new=is_new)
        if not head.checkpoint:
            self._copy.begin_anew(self._binding, self.newest_generation())
        if is_new:
            letters = self._copy.rebuild_dead_letters(head, self._objects)
            acknowledged = self._copy.exchange_published(head, self._objects)
            self._events.begin(letters, _oldest_label(head), acknowledged)
            self._copy.new_quarantine()
        self._elsewhere = self._lost_state = None
        if head.state and not self._copy.has_state(head.state):
            if head.header:
                self._elsewhere = StateElsewhere(f"{head.epoch}/{head.state.name}", head.header)
                return
            try:
                self.fetch_state()
            except StateError as error:
                self._lost_state = error

    def _written(self, batch: Batch | None) -> dict[str, Any]:
        """Write what a commit names, and return how the head says it."""
        _write_quarantine(self._copy, self._objects, self._names)
        changes: dict[str, Any] = {"checkpoint": self._copy.checkpoint()}
        if batch:
            pending = [each for each in self._lease.head.pending if each.file not in self._gone]
            changes["pending"] = (*pending, _upload(batch, self._objects, self._names))
            failpoint("batch-uploaded")
        header = read_header(self._copy.state_file)
        self._note_good_poll(header.observed_at)
        name = f"state/{self._names.unique()}.json"
        stored = self._objects.upload_once(name, self._copy.state_file)
        failpoint("state-uploaded")
        return {**changes, **self._noted, **_told_of(header), "state": stored}

    def _note_good_poll(self, observed_at: str | None) -> None:
        self._noted = {"last_good_poll": _latest(observed_at, self._noted, self._lease.head)}


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
    where = setting("CLOUD_RUN_EXECUTION") or socket.gethostname()
    holder = f"{where} pid {os.getpid()} {secrets.token_hex(4)}"
    lease = HeadLease(objects, holder, lease_seconds)
    return BucketReplica(objects, lease, WorkingCopy(state_file, events_dir), binding)


def _write_quarantine(copy: WorkingCopy, objects: ObjectFolder, names: ObjectNames) -> None:
    for day, lines in copy.new_quarantine().items():
        objects.write_once(f"quarantine/{day}/{names.unique()}.jsonl", lines)


def _check_that_head_is_newest(head: Head, batch: Batch | None, objects: ObjectFolder) -> None:
    """Raise StateError where the bucket has published more than its head knows.

    What was published since the state was saved is looked at, however many quiet days ago.
    """
    saved = min(head.header.observed_at, format_time(datetime.now(UTC))) if head.header else ""
    newest = newest_label(objects, day_before(saved))
    if newest >= label_of(batch) if batch else newest > head.newest_label():
        raise StateError(f"{objects.url}head.json is not the newest: {OLD_COPY}")


def _upload(batch: Batch, objects: ObjectFolder, names: ObjectNames) -> PendingBatch:
    name = f"outbox/{label_of(batch)}.{names.unique()}.jsonl"
    stored = objects.upload_once(name, batch.path)
    return PendingBatch(batch.path.name, batch.header().events, stored)


def _is_long(before: str | None, after: str | None) -> bool:
    """Tell whether it was long from one good poll to the next."""
    if not (before and after):
        return False
    passed = datetime.fromisoformat(after) - datetime.fromisoformat(before)
    return passed.total_seconds() > LOOK_SECONDS


def _latest(observed_at: str | None, noted: dict[str, Any], head: Head) -> str | None:
    known = (observed_at, noted.get("last_good_poll"), head.last_good_poll)
    return max(filter(None, known), default=None)


def _oldest_label(head: Head) -> str:
    """Return by what the objects of the batch that leaves next are found."""
    return head.pending[0].file.removesuffix(".jsonl") if head.pending else ""


def _told_of(header: StateHeader) -> dict[str, Any]:
    """Return what the head says of a state."""
    is_short = len(msgspec.json.encode(header)) <= MAX_HEADER_BYTES
    return {
        "carts": header.cart_count,
        "held_deletions": len(header.held_deletions.cart_ids),
        "header": header if is_short else None,
    }
