"""`head.json`: which state in the bucket is the true one, and who may write the next.

The protocol, and why each step is where it is:

     1. Read the head. Content and generation come in one answer, so they belong together.
     2. Take it: write holder, lease and a higher epoch over that generation. Two who read the
        same generation cannot both win, whatever their clocks say.
     3. Rebuild the working copy where its checksum is not the head's: a disk that another has
        overtaken, or that is new, is worth nothing.
     4. Publish what is pending before asking, so that a cart's older events leave first.
     5. Write the poll's batch and the state after it, under names that hold epoch and nonce:
        nobody else writes them, and until the head names them nobody reads them.
     6. Swap the head: that is the commit. A kill before it is a poll that has not happened, a
        kill after it is finished by the next holder, with the same ids.
     7. Publish in rounds, each begun only with enough of the lease left by one's own monotonic
        clock: a sleeper that wakes in a round repeats committed events, which count once.
     8. Write what has left (event store, dead letters), and only then
     9. swap the batch out of pending: in between, the next holder finds in 8 what it need not
        send again.
    10. Release the head last. What no head names is deleted after the swap that forgot it.

A swap answered with 412 is read again: with our nonce in the head it was our own, whose answer
was lost; with any other we are fenced, and stop, and delete nothing. Clocks decide only when
another takes over, never what is true: that is the generation's to say.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from ingestion.objects import (
    BucketRefusedError,
    BucketUnreachableError,
    ObjectFolder,
    ReplacedError,
    StoredObject,
)

HEAD_NAME = "head.json"
FORMAT = 1
# a head that changes under us so often is being taken by somebody
TAKE_ATTEMPTS = 5


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of `head.json`. `holder` is empty when nobody holds it.

    `state` is the state object, and `checksum` what that state says of itself; `pending` are the
    batches that have not left whole, oldest first. The validators of the last answer stand here
    too, so that an unchanged poll needs no state.
    """

    format: int = FORMAT
    epoch: int = 0
    nonce: str = ""
    holder: str = ""
    lease_end: str = ""
    state: StoredObject | None = None
    pending: tuple[StoredObject, ...] = ()
    etag: str | None = None
    body: str | None = None
    last_good_poll: str | None = None


class HeldElsewhereError(Exception):
    """Somebody else holds the head, and the lease has not run out."""

    def __init__(self, head: Head) -> None:
        super().__init__(f"{head.holder} holds the state until {head.lease_end}")
        self.head = head


class FencedError(Exception):
    """Somebody else has taken the head meanwhile: nothing of ours counts from here on."""


class HeadError(Exception):
    """The head cannot be read; the message says why. Never taken for a cold start."""


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
        self._objects = objects
        self._seconds = lease_seconds
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
        return self._read()[0]

    def take(self) -> Head:
        """Take the head, or renew it, and return what it says.

        HeldElsewhereError where a live holder has it. It may say something else than what was
        known: somebody else may have written, or a swap of ours whose outcome was not known.
        """
        for _ in range(TAKE_ATTEMPTS):
            found, generation = self._read()
            is_ours = found.holder == self.holder
            if found.holder and not is_ours and self._is_live(found):
                raise HeldElsewhereError(found)
            epoch = found.epoch if is_ours else found.epoch + 1
            if self._write(replace(found, epoch=epoch, holder=self.holder), generation):
                return self.head
        raise BucketUnreachableError(f"{self._objects.url}{HEAD_NAME} changed again and again")

    def swap(self, **changes: Any) -> None:
        """Write the head with `changes`, and begin the lease anew; FencedError if it was taken.

        After BucketUnreachableError the outcome is unknown: only `take` tells.
        """
        self._replace(replace(self.head, **changes))

    def release(self, **changes: Any) -> None:
        """Write the head with `changes`, and leave it to whoever comes next."""
        self._replace(replace(self.head, holder="", **changes))
        self._generation = None

    def _replace(self, head: Head) -> None:
        if self._generation is None:
            raise FencedError("the head is not held")
        if not self._write(head, self._generation):
            raise FencedError(f"{self.head.holder or 'somebody'} has taken the head meanwhile")

    def _read(self) -> tuple[Head, int]:
        found = self._objects.read(HEAD_NAME)
        if found is None:
            return Head(), 0
        content, generation = found
        try:
            head = msgspec.json.decode(content, type=Head)
        except msgspec.DecodeError as error:
            raise HeadError(f"{self._objects.url}{HEAD_NAME} is not a head: {error}") from None
        if head.format != FORMAT:
            raise HeadError(
                f"{self._objects.url}{HEAD_NAME} has format {head.format}, and this version of "
                f"the script reads {FORMAT}"
            )
        return head, generation

    def _write(self, head: Head, generation: int) -> bool:
        """Exchange `generation` for `head`; False where another one has been written."""
        # counted from before it is asked for, so that ours ends before others think it does
        ends = self._monotonic() + self._seconds
        lease_end = (self._now() + timedelta(seconds=self._seconds)).isoformat()
        nonce = secrets.token_hex(8)
        head = replace(head, nonce=nonce, lease_end=lease_end if head.holder else "")
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

    def _is_live(self, head: Head) -> bool:
        return self._now() < datetime.fromisoformat(head.lease_end)
