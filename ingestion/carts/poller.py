"""One poll: ask, compare, make the events durable, save the state; and the same after a kill."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
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
    gate_deletions,
    make_event,
)
from ingestion.carts.checkpoint import Binding, generation_after
from ingestion.carts.comparison import (
    Comparison,
    CreatedCarts,
    compare,
    hashes_to_compare,
    missing_ids,
)
from ingestion.carts.event_batch import Batch, BatchHeader, format_time
from ingestion.carts.first_snapshot import first_events, first_lines
from ingestion.carts.opening import empty_state, load, recover
from ingestion.carts.outbox import EventFolder
from ingestion.carts.replica import Replica
from ingestion.carts.state import (
    KnownCart,
    StateHeader,
    raw_hash,
    read_carts,
    read_sequences_of_deleted,
)
from ingestion.carts.state_file import StateFile
from ingestion.carts.superseding import check_nothing_vanishes
from ingestion.json_array import BadAnswer
from ingestion.redaction import redact
from ingestion.source import Answer

log = logging.getLogger(__name__)

# asks the source with an ETag or without, and returns what the function makes of the answer
Ask = Callable[[Callable[[Answer], Any], str | None], Any]


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
class PollRules:
    """How a poll decides: the gate for mass deletions, and whether the state counts at first."""

    poll_interval: float = 60.0
    accept_deletes: bool = False
    is_new_snapshot: bool = False


@dataclass(frozen=True)
class FetchedCarts:
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
    """What an answer means for the carts: `known` are those that it concerns, as they were."""

    comparison: Comparison
    known: Mapping[int, KnownCart]
    held: HeldDeletions


class Poller:
    """The order of a poll's steps; what it works on are the state's file and the events folder."""

    def __init__(
        self,
        state: StateFile,
        events: EventFolder,
        binding: Binding,
        ask: Ask,
        rules: PollRules,
        replica: Replica,
    ) -> None:
        """Read nothing yet."""
        self._state = state
        self._events = events
        self._binding = binding
        self._ask = ask
        self._rules = rules
        self._replica = replica
        self._is_open = False
        self._ignores_state = rules.is_new_snapshot

    def poll(self) -> PollResult:
        """Poll once, and leave behind the events in the outbox and the state after them.

        Raises FetchFailed or BadAnswer, and then has changed nothing but what a killed process
        had left undone; StateError or MadeForAnotherError where it cannot go on.
        """
        self._replica.begin_poll()
        if not self._is_open or self._state.is_touched():
            self.open()
        else:
            self._events.outbox.check(self._state.header)
        fetched = self._fetch()
        observed_at = format_time(fetched.observed_at)
        if fetched.reading is None:
            self._state.note_good_poll(observed_at)
            self._replica.commit(None, is_state_saved=False)
            return PollResult(False, self._state.header.cart_count if self._state.header else 0)
        findings = self._find(fetched.reading, fetched)
        header = self._state.header
        if header is None:
            if not self._rules.accept_deletes:
                _check_what_is_superseded(
                    self._state, self._events, self._binding.source, fetched.reading
                )
            header = self._begin_generation(fetched, findings)
        bad = self._quarantine(fetched.reading.bad, header.quarantined)
        batch = None
        if findings.comparison.changes:
            batch = self._commit_batch(findings, fetched.reading, header, observed_at)
        self._save(header, findings, fetched, fetched.reading, batch, bad)
        self._ignores_state = False
        self._replica.commit(batch, is_state_saved=True)
        return _poll_result(findings, self._state.header, bad)

    def open(self) -> None:
        """Load the state, and finish what a killed process had begun, no more."""
        load(self._state, self._events, self._binding, ignores_state=self._ignores_state)
        recover(
            self._state,
            self._events,
            self._binding,
            self._replica,
            ignores_state=self._ignores_state,
        )
        self._is_open = True

    def preview(self) -> tuple[list[Change], HeldDeletions]:
        """Return what a poll would find now; nothing is written."""
        load(self._state, self._events, self._binding, ignores_state=self._ignores_state)
        fetched = self._fetch()
        if fetched.reading is None:
            return [], HeldDeletions()
        findings = self._find(fetched.reading, fetched)
        return list(findings.comparison.changes), findings.held

    def _fetch(self) -> FetchedCarts:
        """Ask the source; FetchFailed or BadAnswer where its answer cannot be believed."""
        header = self._state.header

        def read(answer: Answer) -> FetchedCarts:
            if answer.not_modified:
                return FetchedCarts(answer.received_at, None, None, None, {})
            blocks = deque(answer.blocks())
            body = _hash_of(blocks)
            if header and header.body == body:
                return FetchedCarts(answer.received_at, None, None, None, {})
            index = self._state.index()
            reading = read_answer(_drain(blocks), index, answer.received_at)
            return FetchedCarts(answer.received_at, answer.etag, body, reading, index)

        fetched: FetchedCarts = self._ask(read, header.etag if header else None)
        return fetched

    def _find(self, reading: Reading, fetched: FetchedCarts) -> Findings:
        header = self._state.header
        deleted, held = gate_deletions(
            missing_ids(fetched.index, reading),
            len(fetched.index),
            header.held_deletions if header else HeldDeletions(),
            moment=fetched.observed_at,
            poll_interval=self._rules.poll_interval,
            accept=self._rules.accept_deletes,
        )
        hashes = hashes_to_compare(fetched.index, reading, deleted)
        known = read_carts(self._state.path, hashes) if header else {}
        return Findings(compare(known, reading), known, held)

    def _begin_generation(self, fetched: FetchedCarts, findings: Findings) -> StateHeader:
        """Make a generation durable that sorts after all that state and events folder have seen."""
        if not findings.comparison.changes:
            raise BadAnswer("The answer holds no valid cart to begin with.")
        newest = max(self._events.newest_generation(), self._state.generation_here())
        newest = max(newest, self._replica.newest_generation())
        generation = generation_after(fetched.observed_at, newest)
        self._state.set_aside()
        published = self._events.store.position()
        self._events.checkpoint.begin(self._binding, generation, published)
        return empty_state(self._binding, generation)

    def _commit_batch(
        self, findings: Findings, reading: Reading, header: StateHeader, observed_at: str
    ) -> Batch:
        """Make the poll's events durable."""
        changes = findings.comparison.changes
        context = PollContext(
            source=self._binding.source,
            generation=header.generation,
            observed_after=self._state.last_good_poll,
            observed_before=observed_at,
            snapshot_size=None if self._state.header else len(changes),
        )
        if self._state.header:
            documents = _later_events(self._state.path, findings, reading, context)
        else:
            documents = first_events(reading.fresh, context)
        batch_header = BatchHeader(
            generation=header.generation,
            number=header.batch + 1,
            source=self._binding.source,
            observed_at=observed_at,
            events=len(changes),
        )
        return self._events.outbox.commit(batch_header, documents)

    def _save(
        self,
        header: StateHeader,
        findings: Findings,
        fetched: FetchedCarts,
        reading: Reading,
        batch: Batch | None,
        quarantined: tuple[str, ...],
    ) -> None:
        # while deletions are held, the next answer must be looked at even if it is this one
        is_settled = not findings.held.polls
        header = replace(
            header,
            observed_at=format_time(fetched.observed_at),
            etag=fetched.etag if is_settled else None,
            body=fetched.body if is_settled else None,
            held_deletions=findings.held,
            quarantined=quarantined,
        )
        if self._state.header is None and batch:
            self._state.begin(header, batch, first_lines(reading.fresh))
            return
        raw_hashes = {cart_id: fresh.raw_hash for cart_id, fresh in reading.fresh.items()}
        self._state.follow(header, batch, fetched.index, raw_hashes, findings.comparison.rewritten)

    def _quarantine(self, bad: Mapping[int, BadCart], known: Collection[str]) -> tuple[str, ...]:
        """Keep the bad records that were not there in the last answer; return all their hashes."""
        hashes = {raw_hash(record.raw).hex(): record for record in bad.values()}
        self._events.store.quarantine(
            (redact(record.raw), record.reason)
            for key, record in hashes.items()
            if key not in known
        )
        return tuple(hashes)


def _check_what_is_superseded(
    state: StateFile, events: EventFolder, source: str, reading: Reading
) -> None:
    before = state.known_before(source) or events.known_before(source)
    check_nothing_vanishes(before, reading.fresh, reading.bad)


def _later_events(
    state: Path, findings: Findings, reading: Reading, context: PollContext
) -> Iterator[bytes]:
    """Yield the events of changes after a state, with the sequences that follow those in it."""
    created = frozenset(reading.fresh).difference(findings.known)
    sequences = read_sequences_of_deleted(state, created)
    sequences.update((cart_id, line.sequence) for cart_id, line in findings.known.items())
    for change in findings.comparison.changes:
        yield msgspec.json.encode(make_event(change, sequences.get(change.cart_id), context))


def _poll_result(
    findings: Findings, header: StateHeader | None, quarantined: Collection[str]
) -> PollResult:
    changes = findings.comparison.changes
    if isinstance(changes, CreatedCarts):
        types = Counter({CREATED: len(changes)})
    else:
        types = Counter(change.type for change in changes)
    return PollResult(
        changed=True,
        carts=header.cart_count if header else 0,
        created=types[CREATED],
        modified=types[MODIFIED],
        deleted=types[DELETED],
        held=len(findings.held.cart_ids),
        quarantined=len(quarantined),
    )


def _hash_of(blocks: Iterable[bytes]) -> str:
    hashed = xxh3_128()
    for block in blocks:
        hashed.update(block)
    return hashed.hexdigest()


def _drain(blocks: deque[bytes]) -> Iterator[bytes]:
    """Yield the blocks and let go of each, so that the answer does not stay in memory."""
    while blocks:
        yield blocks.popleft()
