"""One poll: ask, compare, make the events durable, save the state; and the same after a kill.

The state that follows a poll is always the old state plus the poll's batch as it lies in the
outbox, in the running process as after a kill: `_save` is the only way to a new state.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace
from xxhash import xxh3_128

from ingestion.carts.answer import BadCart, Reading, read_answer
from ingestion.carts.changes import (
    CREATED,
    DELETED,
    MODIFIED,
    Change,
    HeldDeletions,
    PollContext,
    detect_changes,
    gate_deletions,
    make_event,
    signature,
)
from ingestion.carts.outbox import Batch, BatchHeader, EventFolder, format_time
from ingestion.carts.state import (
    CorruptStateError,
    KnownCart,
    StateHeader,
    Tombstone,
    encode_line,
    load_header,
    raw_hash,
    read_carts,
    read_index,
    save_state,
)
from ingestion.durable_files import replace_file
from ingestion.redaction import redact
from ingestion.source import Answer

log = logging.getLogger(__name__)

# asks the source with an ETag or without, and returns what the function makes of the answer
Ask = Callable[[Callable[[Answer], Any], str | None], Any]

OLD_COPY = (
    "it seems to be an old copy that was put back. Nothing was changed. Move the state away: the "
    "next run publishes the outbox and takes a new snapshot of all carts."
)


class StateError(Exception):
    """State and outbox cannot be gone on with; the message says why and what to do."""


class PollResult(NamedTuple):
    """What a poll found. `changed` is False where the answer was the one before."""

    changed: bool
    carts: int
    created: int = 0
    modified: int = 0
    deleted: int = 0
    held: int = 0
    quarantined: int = 0


@dataclass(frozen=True)
class Heard:
    """An answer, and what it was read against: `index`, raw hash → id of the known carts.

    `reading` is None where the answer is the one before, by its ETag or by its bytes.
    """

    observed_at: datetime
    etag: str | None
    body: str | None
    reading: Reading | None
    index: Mapping[bytes, int]


@dataclass(frozen=True)
class Findings:
    """What an answer means: the changes, the carts that they concern as they were, and so on.

    `rewritten` are the carts that are only written differently, `held` those whose deletion is
    not believed yet.
    """

    changes: list[Change]
    known: Mapping[int, KnownCart]
    rewritten: list[KnownCart]
    held: HeldDeletions


class _LastPoll(msgspec.Struct):
    generation: str
    observed_at: str


class Poller:
    """The state, and the polls that move it on."""

    def __init__(self, state_file: Path, source: str, ask: Ask, *, accept_deletes: bool) -> None:
        """Load the state; StateError where there is one that cannot be read."""
        self.state_file = state_file
        self._last_poll_file = state_file.with_name(f"{state_file.stem}.last_poll.json")
        self._source = source
        self._ask = ask
        self._accept_deletes = accept_deletes
        self._load()
        if self._header and self._header.source != source:
            log.warning("the state was made from %s, now polling %s", self._header.source, source)

    def recover(self, events: EventFolder) -> None:
        """Take into the state what a killed process had committed to the outbox, no more."""
        for batch in self._unknown_batches(events):
            header = self._header or _empty_state(batch.generation)
            observed_at = batch.header().observed_at
            # without validators the next answer is looked at, whatever it is
            self._save(
                replace(header, source=self._source, observed_at=observed_at, etag=None, body=None),
                batch,
                read_index(self.state_file),
            )
            log.warning("recovered an interrupted poll batch=%s", batch.path.name)

    def poll(self, events: EventFolder) -> PollResult:
        """Poll once, and leave behind the events in the outbox and the state after them.

        Raises FetchFailed or BadAnswer, and then has changed nothing.
        """
        self._load_again_if_touched()
        heard = self.hear()
        observed_at = format_time(heard.observed_at)
        if heard.reading is None:
            self._note_good_poll(observed_at)
            return PollResult(False, self._header.cart_count if self._header else 0)
        findings = self.compare(heard.reading, heard.index)
        header = self._header or _empty_state(new_generation(heard.observed_at))
        quarantined = self._quarantine(heard.reading.bad, header.quarantined, events)
        batch = self._commit(findings, header, observed_at, events) if findings.changes else None
        # while deletions are held, the next answer must be looked at even if it is this one
        is_settled = not findings.held.polls
        header = replace(
            header,
            source=self._source,
            observed_at=observed_at,
            etag=heard.etag if is_settled else None,
            body=heard.body if is_settled else None,
            held_deletions=findings.held,
            quarantined=quarantined,
        )
        raw_hashes = {cart_id: fresh.raw_hash for cart_id, fresh in heard.reading.fresh.items()}
        self._save(header, batch, heard.index, raw_hashes, findings.rewritten)
        types = Counter(change.type for change in findings.changes)
        return PollResult(
            changed=True,
            carts=self._header.cart_count if self._header else 0,
            created=types[CREATED],
            modified=types[MODIFIED],
            deleted=types[DELETED],
            held=len(findings.held.cart_ids),
            quarantined=len(quarantined),
        )

    def hear(self) -> Heard:
        """Ask the source; FetchFailed or BadAnswer where its answer cannot be believed."""
        header = self._header

        def read(answer: Answer) -> Heard:
            if answer.not_modified:
                return Heard(answer.received_at, None, None, None, {})
            blocks = deque(answer.blocks())
            body = _hash_of(blocks)
            if header and header.body == body:
                return Heard(answer.received_at, None, None, None, {})
            index = read_index(self.state_file) if header else {}
            reading = read_answer(_drain(blocks), index, answer.received_at)
            return Heard(answer.received_at, answer.etag, body, reading, index)

        heard: Heard = self._ask(read, header.etag if header else None)
        return heard

    def compare(self, reading: Reading, index: Mapping[bytes, int]) -> Findings:
        """Return what differs between the state and an answer. Writes nothing.

        Carts known by their bytes are equal on both sides, so only the others are compared. A
        cart whose record is bad stays as it was: it is neither changed nor deleted.
        """
        ids = frozenset(index.values())
        missing = ids.difference(reading.same, reading.fresh, reading.bad)
        held = self._header.held_deletions if self._header else HeldDeletions()
        deleted, held = gate_deletions(missing, len(ids), held, accept=self._accept_deletes)
        concerned = deleted | (ids & reading.fresh.keys())
        hashes = [key for key, cart_id in index.items() if cart_id in concerned]
        known = read_carts(self.state_file, hashes)
        before = {cart_id: line.cart for cart_id, line in known.items()}
        after = {cart_id: fresh.cart for cart_id, fresh in reading.fresh.items()}
        changes = list(detect_changes(before, after))
        changed = {change.cart_id for change in changes}
        rewritten = [
            replace(line, raw=reading.fresh[cart_id].raw_hash.hex())
            for cart_id, line in known.items()
            if cart_id not in changed
        ]
        return Findings(changes, known, rewritten, held)

    def _load(self) -> None:
        try:
            self._header = load_header(self.state_file)
        except CorruptStateError as error:
            raise StateError(
                f"{self.state_file} cannot be used: {error}. Nothing was changed. Put a good copy "
                f"of it back, or move it away: the next run then takes a new snapshot of all "
                f"carts, which supersedes what was published before."
            ) from None
        self._last_good_poll = self._read_last_good_poll()
        self._file_seen = self._file_identity()

    def _load_again_if_touched(self) -> None:
        """Notice that somebody has taken the state away, or put another in its place."""
        if self._file_identity() == self._file_seen:
            return
        before = self._header
        self._load()
        if before and self._header is None:
            log.warning("the state is gone: a new one begins with a new snapshot of all carts")
        elif before and self._header and self._header.batch < before.batch:
            raise StateError(f"{self.state_file} was replaced: {OLD_COPY}")

    def _file_identity(self) -> tuple[int, int] | None:
        try:
            status = self.state_file.stat()
        except FileNotFoundError:
            return None
        return status.st_size, status.st_mtime_ns

    def _commit(
        self, findings: Findings, header: StateHeader, observed_at: str, events: EventFolder
    ) -> Batch:
        """Make the poll's events durable. In a cold start the generation becomes so with them."""
        is_cold_start = self._header is None
        context = PollContext(
            source=self._source,
            generation=header.generation,
            observed_after=self._last_good_poll,
            observed_before=observed_at,
            snapshot_size=len(findings.changes) if is_cold_start else None,
        )
        sequences = {stone.id: stone.sequence for stone in header.tombstones}
        sequences.update((cart_id, line.sequence) for cart_id, line in findings.known.items())
        documents = (
            msgspec.json.encode(make_event(change, sequences.get(change.cart_id), context))
            for change in findings.changes
        )
        batch_header = BatchHeader(
            generation=header.generation,
            number=header.batch + 1,
            source=self._source,
            observed_at=observed_at,
            events=len(findings.changes),
        )
        return events.commit_batch(batch_header, documents)

    def _save(
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
        raw_hashes = raw_hashes or {}
        tombstones = {stone.id: stone for stone in header.tombstones}
        lines = {line.cart.id: encode_line(line) for line in rewritten}
        changed = set(lines)
        for event in batch.events() if batch else ():
            cart, cart_id = event.data.after, event.data.cart_id
            changed.add(cart_id)
            if cart is None:
                tombstones[cart_id] = Tombstone(cart_id, event.sequence)
                continue
            tombstones.pop(cart_id, None)
            key = raw_hashes.get(cart_id) or raw_hash(msgspec.json.encode(cart))
            line = KnownCart(key.hex(), event.sequence, signature(cart), cart)
            lines[cart_id] = encode_line(line)
        dropped = [key for key, cart_id in index.items() if cart_id in changed]
        header = replace(
            header,
            batch=batch.number if batch else header.batch,
            cart_count=len(index) - len(dropped) + len(lines),
            tombstones=tuple(tombstones.values()),
        )
        if self._file_identity() != self._file_seen:
            raise StateError(f"{self.state_file} was touched during the poll: run again.")
        save_state(self.state_file, header, dropped, lines.values())
        self._header = header
        self._last_good_poll = header.observed_at
        self._file_seen = self._file_identity()

    def _quarantine(
        self, bad: Mapping[int, BadCart], known: Collection[str], events: EventFolder
    ) -> tuple[str, ...]:
        """Keep the bad records that were not there in the last answer; return all their hashes."""
        hashes = {raw_hash(record.raw).hex(): record for record in bad.values()}
        events.quarantine(
            (redact(record.raw), record.reason)
            for key, record in hashes.items()
            if key not in known
        )
        return tuple(hashes)

    def _unknown_batches(self, events: EventFolder) -> list[Batch]:
        """Return the batches that this state, or the cold start that was killed, still lacks."""
        batches = events.batches()
        if not batches:
            return []
        generation, last = batches[-1].generation, 0
        if self._header:
            if generation > self._header.generation:
                raise StateError(f"{self.state_file} is older than {batches[-1].path}: {OLD_COPY}")
            generation, last = self._header.generation, self._header.batch
        unknown = [
            batch for batch in batches if batch.generation == generation and batch.number > last
        ]
        if not unknown:
            return []
        if unknown[0].number != last + 1:
            if self._header is None:
                # no cold start that was killed: this state was lost later, and a new one begins
                return []
            raise StateError(
                f"{self.state_file} ends with batch {last}, but {unknown[0].path} comes next: "
                f"{OLD_COPY}"
            )
        if not unknown[-1].is_whole():
            # only a disk that lost what it had promised does this; the batch was in no state
            # yet, so nothing of it has left, and the next poll finds its changes again
            log.warning("dropped a damaged batch that was in no state batch=%s", unknown[-1].path)
            unknown.pop().path.unlink()
        return unknown

    def _read_last_good_poll(self) -> str | None:
        """Return when the source was last seen to be as the state says, or None without a state."""
        if not self._header:
            return None
        try:
            note = msgspec.json.decode(self._last_poll_file.read_bytes(), type=_LastPoll)
        except (OSError, msgspec.DecodeError):
            return self._header.observed_at
        is_ours = note.generation == self._header.generation
        return max(self._header.observed_at, note.observed_at if is_ours else "")

    def _note_good_poll(self, observed_at: str) -> None:
        """Remember an unchanged poll beside the state, which would cost a whole write.

        Without fsync: if the note is lost, the next events span a longer time, no wrong one.
        """
        self._last_good_poll = observed_at
        if self._header:
            note = msgspec.json.encode(_LastPoll(self._header.generation, observed_at))
            replace_file(self._last_poll_file, [note], "last_poll", durable=False)


def new_generation(moment: datetime) -> str:
    """Return a name for a state that begins; names of later ones sort later."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}{utc.microsecond // 1000:03d}Z-{secrets.token_hex(4)}"


def _empty_state(generation: str) -> StateHeader:
    return StateHeader(generation=generation, batch=0, source="", observed_at="", cart_count=0)


def _hash_of(blocks: Iterable[bytes]) -> str:
    hashed = xxh3_128()
    for block in blocks:
        hashed.update(block)
    return hashed.hexdigest()


def _drain(blocks: deque[bytes]) -> Iterator[bytes]:
    """Yield the blocks and let go of each, so that the answer does not stay in memory."""
    while blocks:
        yield blocks.popleft()
