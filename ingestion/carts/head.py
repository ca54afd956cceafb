"""`head.json`: which state in the bucket is the true one, and who may write the next.

The protocol, and why each step is where it is:

     1. Read the head. Content and generation come in one answer, so they belong together.
     2. Take it: write holder, lease and a higher epoch over that generation. Two who read the
        same generation cannot both win, whatever their clocks say.
     3. Rebuild the working copy where it is not what the head says: a disk that is new, or that
        another has overtaken, is worth nothing.
     4. Write the poll's batch and the state after it, under names that hold epoch and chance:
        nobody else writes them, and until the head names them nobody reads them.
     5. Swap the head: that is the commit. A kill before it is a poll that has not happened, a
        kill after it is finished by the next holder, with the same ids.
     6. Publish in rounds, each begun with enough of the lease left by one's own monotonic clock,
        and ended by then: a sleeper that wakes in a round repeats committed events, no others.
     7. Write what has left (event store, dead letters), and only then
     8. swap the batch out of pending: a next holder in between finds in 7 what has left already.
     9. Delete what no head names any more: with each commit, and where one takes over from the
        dead.
    10. Release the head last: until then nobody else begins.

A write answered with 412 is read again: with our nonce in the head it was our own, whose answer
was lost; with any other we are fenced, and stop, and delete nothing. Clocks decide only when
another takes over, never what is true: that is the generation's to say.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

from ingestion.bucket_errors import BucketRefusedError, BucketUnreachableError, ReplacedError
from ingestion.carts.checkpoint import Checkpoint
from ingestion.carts.lease_errors import LeaseHeldError, LeaseLostError
from ingestion.carts.state import StateHeader
from ingestion.objects import ObjectFolder, StoredObject

log = logging.getLogger(__name__)

HEAD_NAME = "head.json"
FORMAT = 1
# a head that changes under us so often is being taken by somebody
TAKE_ATTEMPTS = 5
# a lease that has so much longer to go than it was given for tells of a clock that is wrong
MOST_SKEW_SECONDS = 600.0


class PendingBatch(msgspec.Struct, frozen=True):
    """A batch of the outbox that has not left whole; `file` is its name there."""

    file: str
    events: int
    stored: StoredObject


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of `head.json`. `holder` is empty when nobody holds it.

    `checkpoint` is that of the events folder, `state` the state object and `header` the state's
    own header, which has the validators of the last answer: an unchanged poll needs no more.
    It is None where it is too long to be written with every swap. `pending` are the batches that
    have not left whole, oldest first; the numbers are of the carts known, the deletions held and
    the dead letters. `lease_seconds` is how long before `lease_end` the head was written.
    """

    format: int = FORMAT
    epoch: int = 0
    nonce: str = ""
    holder: str = ""
    lease_end: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    lease_seconds: float = 0.0
    checkpoint: Checkpoint | None = None
    state: StoredObject | None = None
    header: StateHeader | None = None
    pending: tuple[PendingBatch, ...] = ()
    carts: int = 0
    held_deletions: int = 0
    dead_letters: int = 0
    last_good_poll: str | None = None

    def objects(self) -> set[str]:
        """Return the names of the objects without which the head is worth nothing."""
        pending = {batch.stored.name for batch in self.pending}
        return pending | {self.state.name} if self.state else pending

    def newest_label(self) -> str:
        """Return the label of the newest batch that is known: pending, or left before."""
        pending = [batch.file.removesuffix(".jsonl") for batch in self.pending]
        left = self.checkpoint
        return max([*pending, f"{left.generation}.{left.batch:010d}" if left else ""])


class HeadLease:
    """The head as this process holds it. One thread at a time."""

    def __init__(
        self,
        objects: ObjectFolder,
        holder: str,
        lease_seconds: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Name a holder, unlike any other's; nothing is asked yet."""
        self.head = Head()
        self.holder = holder
        # who had it before us, and did not give it back
        self.taken_from = ""
        self._objects = objects
        self.seconds = lease_seconds
        self._now = now
        self._monotonic = monotonic
        self._generation: int | None = None
        self._ends = -1.0

    @property
    def is_held(self) -> bool:
        """Whether we hold it as far as we know; after a write of unknown outcome we do not."""
        return self._generation is not None

    def seconds_left(self) -> float:
        """Return how long nobody else will take over, by our own clock."""
        return self._ends - self._monotonic() if self.is_held else 0.0

    def look(self) -> Head:
        """Return what the head says, without taking it."""
        self.head, generation = self._read()
        if not generation:
            # no head, and no bucket, are one answer to who reads an object
            self._objects.names(HEAD_NAME)
        return self.head

    def take(self) -> Head:
        """Take the head, or renew it, and return what it says.

        LeaseHeldError where a live holder has it. It may say something else than what was
        known: somebody else may have written, or a swap of ours whose outcome was not known.
        """
        for _ in range(TAKE_ATTEMPTS):
            found, generation = self._read()
            is_ours = found.holder == self.holder
            if found.lease_end and not is_ours and self._is_live(found, found.lease_end):
                until = found.lease_end.isoformat()
                raise LeaseHeldError(f"{found.holder} holds the state until {until}")
            epoch = found.epoch if is_ours else found.epoch + 1
            if self._write(replace(found, epoch=epoch, holder=self.holder), generation):
                self.taken_from = "" if is_ours else found.holder
                return self.head
        raise BucketUnreachableError(f"{self._objects.url}{HEAD_NAME} changed again and again")

    def swap(self, **changes: Any) -> None:
        """Write the head with `changes`, and begin the lease anew; LeaseLostError if it was taken.

        After BucketUnreachableError the outcome is unknown: only `take` tells.
        """
        self._replace(replace(self.head, **changes))

    def renew_in_time(self) -> None:
        """Begin the lease anew where half of it is over; nothing where the head is not held."""
        if self.is_held and self.seconds_left() < self.seconds / 2:
            self.swap()

    def release(self, **changes: Any) -> None:
        """Write the head with `changes`, and leave it to whoever comes next."""
        self._replace(replace(self.head, holder="", **changes))
        self._generation = None

    def _replace(self, head: Head) -> None:
        if self._generation is None:
            raise LeaseLostError("the head of the state is not held")
        if not self._write(head, self._generation):
            raise LeaseLostError(f"{self.head.holder or 'somebody'} has taken the head meanwhile")

    def _read(self) -> tuple[Head, int]:
        found = self._objects.read(HEAD_NAME)
        if found is None:
            return Head(), 0
        content, generation = found
        try:
            head = msgspec.json.decode(content, type=Head)
        except msgspec.DecodeError as error:
            raise BucketRefusedError(
                f"{self._objects.url}{HEAD_NAME} is not a head: {error}. "
                "Nothing was changed. Put an older version of it back, or move it away: the next "
                "run then takes a new snapshot of all carts, which supersedes what was published "
                "before."
            ) from None
        if head.format != FORMAT:
            raise BucketRefusedError(
                f"{self._objects.url}{HEAD_NAME} has format {head.format}, and this version of "
                f"the script reads {FORMAT}"
            )
        return head, generation

    def _write(self, head: Head, generation: int) -> bool:
        """Exchange `generation` for `head`; False where another one has been written."""
        # counted from before it is asked for, so that ours ends before others think it does
        ends = self._monotonic() + self.seconds
        lease_end = self._now() + timedelta(seconds=self.seconds) if head.holder else None
        nonce = secrets.token_hex(8)
        head = replace(head, nonce=nonce, lease_end=lease_end, lease_seconds=self.seconds)
        self._generation = None
        try:
            written = self._objects.replace(HEAD_NAME, msgspec.json.encode(head), generation)
        except ReplacedError as error:
            found, written = self._read()
            if written == generation:
                # nobody has written: it was not the precondition that was refused
                raise BucketRefusedError(str(error)) from None
            if found.nonce != nonce:
                self.head = found
                return False
        self.head, self._generation, self._ends = head, written, ends
        return True

    def _is_live(self, head: Head, lease_end: datetime) -> bool:
        left = (lease_end - self._now()).total_seconds()
        if head.lease_seconds and left > head.lease_seconds + MOST_SKEW_SECONDS:
            # it may be at work: then it is fenced, which loses nothing; to wait would stop us all
            log.warning(
                "the lease of %s, of %.0f seconds, ends in %.0f: its clock is wrong, or this one, "
                "and it is not waited for",
                head.holder,
                head.lease_seconds,
                left,
            )
            return False
        return left > 0
