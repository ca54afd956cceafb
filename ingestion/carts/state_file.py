"""The state's file as one process sees it: loaded, guarded, moved on by a batch, set aside.

The state that follows a poll is always the old state plus the poll's batch as it lies in the
outbox, in the running process as after a kill: `StateFile.follow` is the only way to it. A first
state is the same; where its carts are still in memory, `StateFile.begin` writes it sooner.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ingestion.carts.changes import CREATED, signature
from ingestion.carts.event_batch import GENERATION, Batch
from ingestion.carts.recovery import MadeForAnotherError
from ingestion.carts.replica import Replica
from ingestion.carts.state import (
    CorruptStateError,
    KnownCart,
    OldFormatError,
    StateEdit,
    StateError,
    StateHeader,
    Tombstone,
    encode_line,
    load_header,
    raw_hash,
    read_header,
    read_index,
    save_state,
)
from ingestion.carts.superseding import KnownBefore
from ingestion.durable_files import replace_file, set_aside

log = logging.getLogger(__name__)


class TouchedStateError(Exception):
    """Somebody has changed the state's file in the middle of a poll; nothing was changed."""


class LastPoll(msgspec.Struct):
    """The note of the last good poll that found nothing new."""

    generation: str
    observed_at: str


class StateFile:
    """`header` is None where there is no state: the next poll is a cold start.

    `last_good_poll` is when the source was last seen to be as the state says.
    """

    def __init__(self, path: Path, replica: Replica | None = None) -> None:
        """Name the file, which `replica` may have elsewhere; nothing is read yet."""
        self.path = path
        self._replica = replica or Replica()
        self.header: StateHeader | None = None
        self.last_good_poll: str | None = None
        self._last_poll_file = last_poll_file(path)
        self._seen = self._identity()

    def load(self) -> None:
        """Read the header; StateError where there is a state that cannot be used."""
        self._replica.check_state()
        elsewhere = self._replica.state_elsewhere()
        try:
            self.header = elsewhere.header if elsewhere else load_header(self.path)
        except OldFormatError as error:
            raise MadeForAnotherError(f"{self.path} cannot be used: {error}") from None
        except CorruptStateError as error:
            raise StateError(
                f"{self.path} cannot be used: {error}. Nothing was changed. Put a good copy of it "
                f"back, or move it away: the next run then takes a new snapshot of all carts, "
                f"which supersedes what was published before."
            ) from None
        self.last_good_poll = self._read_last_good_poll()
        self._seen = self._identity()

    def pretend_absent(self) -> None:
        """Begin anew whatever lies here; it stays until `set_aside`."""
        self.header = self.last_good_poll = None
        self._seen = self._identity()

    def is_touched(self) -> bool:
        """Tell whether the file is another than the one that was last loaded or saved."""
        return self._identity() != self._seen

    def bring_here(self) -> None:
        """Have the file here, which a replica may have kept back so far."""
        if self.header and self._replica.state_elsewhere():
            self._replica.fetch_state()
            self._seen = self._identity()

    def index(self) -> dict[bytes, int]:
        """Return raw hash → cart id of the known carts."""
        self.bring_here()
        return read_index(self.path) if self.header else {}

    def generation_here(self) -> str:
        """Return the generation of what lies here, gone on with or not; empty where none can."""
        try:
            generation = read_header(self.path).generation
        except (OSError, ValueError, CorruptStateError):
            return ""
        return generation if re.fullmatch(GENERATION, generation) else ""

    def known_before(self, source: str) -> KnownBefore | None:
        """Return the carts of a state that is not gone on with; None where it tells nothing.

        Of one in a bucket whose object has gone, the header tells how many there were.
        """
        elsewhere = self._replica.state_elsewhere()
        header = elsewhere.header if elsewhere else None
        cart_ids = None
        with suppress(CorruptStateError, StateError, OSError):
            if elsewhere:
                self._replica.fetch_state()
                self._seen = self._identity()
            header = load_header(self.path)
            cart_ids = read_index(self.path).values()
        if header is None or header.source != source:
            return None
        return KnownBefore(header.cart_count, cart_ids)

    def set_aside(self) -> None:
        """Rename what lies here and is not gone on with; an older one of that name goes."""
        if not self.path.exists():
            return
        target = set_aside(self.path)
        log.warning("the state of before was set aside: file=%s", target)
        self._seen = self._identity()

    def note_good_poll(self, observed_at: str) -> None:
        """Remember an unchanged poll beside the state, which would cost a whole write.

        Without fsync: if the note is lost, the next events span a longer time, no wrong one.
        """
        self.last_good_poll = observed_at
        if self.header:
            note = msgspec.json.encode(LastPoll(self.header.generation, observed_at))
            replace_file(self._last_poll_file, [note], "last_poll", durable=False)

    def begin(self, header: StateHeader, batch: Batch, lines: Iterable[bytes]) -> None:
        """Save a first state: the `lines` of the carts that a batch has created.

        It is what `follow` makes of the batch, without the way over the disk and the memory.
        """
        count = batch.header().events
        self._save(replace(header, batch=batch.number, cart_count=count), StateEdit((), lines))

    def follow(
        self,
        header: StateHeader,
        batch: Batch | None,
        index: Mapping[bytes, int],
        raw_hashes: Mapping[int, bytes] | None = None,
        rewritten: Iterable[KnownCart] = (),
    ) -> None:
        """Save the state that follows: the old one plus the batch as it lies on the disk.

        After a kill nobody knows the bytes of the answer any more; the hash of the cart as we
        write it then stands in for them, and the next poll compares the cart itself.
        """
        lines = {line.cart.id: encode_line(line) for line in rewritten}
        changed = set(lines)
        buried = {}
        revived = set()
        for event in batch.events() if batch else ():
            cart, cart_id = event.data.after, event.data.cart_id
            changed.add(cart_id)
            if cart is None:
                buried[cart_id] = Tombstone(cart_id, event.sequence)
                continue
            if event.type == CREATED:
                revived.add(cart_id)
            key = (raw_hashes or {}).get(cart_id) or raw_hash(msgspec.json.encode(cart))
            line = KnownCart(key.hex(), event.sequence, signature(cart), cart)
            lines[cart_id] = encode_line(line)
        dropped = [key for key, cart_id in index.items() if cart_id in changed]
        header = replace(
            header,
            batch=batch.number if batch else header.batch,
            cart_count=len(index) - len(dropped) + len(lines),
        )
        self._save(header, StateEdit(dropped, lines.values(), buried.values(), revived))

    def _save(self, header: StateHeader, edit: StateEdit) -> None:
        if self.is_touched():
            raise TouchedStateError(f"{self.path} was touched during the poll: run again.")
        save_state(self.path, header, edit)
        self.header = header
        self.last_good_poll = header.observed_at
        self._seen = self._identity()

    def _identity(self) -> tuple[int, int, int] | str | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            elsewhere = self._replica.state_elsewhere()
            return elsewhere.name if elsewhere else None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _read_last_good_poll(self) -> str | None:
        if not self.header:
            return None
        try:
            note = msgspec.json.decode(self._last_poll_file.read_bytes(), type=LastPoll)
        except (OSError, ValueError):
            return self.header.observed_at
        is_ours = note.generation == self.header.generation
        return max(self.header.observed_at, note.observed_at if is_ours else "")


def last_poll_file(state_file: Path) -> Path:
    """Return where the last good poll is noted beside a state."""
    return state_file.with_name(f"{state_file.stem}.last_poll.json")
