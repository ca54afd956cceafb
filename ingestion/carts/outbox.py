"""The outbox: batches of events that have not left yet, and how they leave.

Why these files. A poll's events become durable together: the rename of its batch is the commit,
and until the state is saved that batch is the whole truth about the poll. A restart therefore
never has to decide anew: a batch that the state does not have is put into it, and a poll that
died before the rename has not happened.

A batch is forgotten (its file removed) only after the event store has all of its events and the
checkpoint its number. The outbox lies beside the store, not beside the state, because it must
outlive the state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import chain
from pathlib import Path

from ingestion.carts.checkpoint import CheckpointFile
from ingestion.carts.event_batch import (
    Batch,
    BatchHeader,
    DamagedBatchError,
    batch_at,
    write_batch,
)
from ingestion.carts.event_store import EventStore, Position
from ingestion.carts.publishing import PublishRound, PublishTotals, rounds
from ingestion.carts.recovery import check_outbox
from ingestion.carts.replica import Replica
from ingestion.carts.state import StateHeader
from ingestion.carts.superseding import KnownBefore, carts_told_by
from ingestion.durable_files import failpoint

log = logging.getLogger(__name__)


class Outbox:
    """The pending batches, oldest first: by generation, then by number."""

    def __init__(self, folder: Path, store: EventStore, checkpoint: CheckpointFile) -> None:
        """Look into `folder`, which need not exist."""
        self.folder = folder
        self._store = store
        self._checkpoint = checkpoint

    def sweep(self) -> None:
        """Remove what a kill in the middle of a write has left, and name what is no batch."""
        for path in self.folder.glob("*.jsonl.tmp"):
            path.unlink()
        for path in self.folder.glob("*"):
            if not (batch_at(path) or path.name.startswith(".")):
                log.warning("no batch, left alone: file=%s", path)

    def batches(self) -> list[Batch]:
        """Return the batches that are pending."""
        return [batch for path in sorted(self.folder.glob("*")) if (batch := batch_at(path))]

    def check(self, state: StateHeader | None) -> None:
        """Raise StateError where a batch was taken away; a loop may not start for months."""
        if self._checkpoint.current:
            check_outbox(state, self._checkpoint.current, self.batches())

    def commit(self, header: BatchHeader, documents: Iterable[bytes]) -> Batch:
        """Make the events of a poll durable, all at once."""
        return write_batch(self.folder, header, documents)

    def waiting(self) -> int:
        """Return how many events still have to leave."""
        batches = self.batches()
        settled = len(self._settled(batches[0])) if batches else 0
        return sum(batch.header().events for batch in batches) - settled

    def publish(self, publish_round: PublishRound, replica: Replica) -> PublishTotals:
        """Publish what waits, batch after batch, until all has left or something stops it.

        A batch has one event per cart at most, and the next batch begins after the last event
        of this one was acknowledged: that is the order per cart. An event that is rejected goes
        to the dead letters and lets the cart's later ones pass.
        """
        totals = PublishTotals()
        for batch in self.batches():
            settled = self._settled(batch)
            pending = (event for event_id, event in batch.identified() if event_id not in settled)
            for events in rounds(pending):
                result = publish_round(events, replica.publish_deadline())
                self._store.settle(result)
                replica.record(batch, result)
                totals.add(result)
                if result.stopped_by:
                    return totals
            position = self._store.position()
            self._checkpoint.advance(batch.generation, batch.number, position)
            self.remove(batch, replica)
        return totals

    def remove(self, batch: Batch, replica: Replica) -> None:
        """Remove a batch that the checkpoint knows to have left."""
        replica.forget(batch)
        batch.path.unlink()
        failpoint("batch-removed")

    def _settled(self, batch: Batch) -> set[str]:
        """Return the ids of a batch that need not be published again.

        Only the oldest batch can have any: a batch is begun after the one before it was finished.
        """
        current = self._checkpoint.current
        settled = self._store.settled_since(current.published if current else Position())
        if not settled:
            return settled
        try:
            return settled.intersection(event_id for event_id, _ in batch.identified())
        except DamagedBatchError:
            return set()


class EventFolder:
    """The folder given as --events-dir: outbox, event store and checkpoint."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        """Look into `folder`, which need not exist; `now` names the files of the event store."""
        self.folder = folder
        self.store = EventStore(folder, now)
        self.checkpoint = CheckpointFile(folder)
        self.outbox = Outbox(folder / "outbox", self.store, self.checkpoint)

    def newest_generation(self) -> str:
        """Return the newest generation that this folder has ever seen, or an empty text.

        Asked when a generation begins, which is rare: all that lies here is read.
        """
        seen = [self.store.newest_generation(Position())]
        seen += [batch.generation for batch in self.outbox.batches()]
        if self.checkpoint.current:
            seen.append(self.checkpoint.current.generation)
        return max(seen)

    def known_before(self, source: str) -> KnownBefore | None:
        """Return the carts that the events here add up to, or None where they do not tell.

        Asked when a generation begins and no state of before can be read.
        """
        waiting = chain.from_iterable(batch.documents() for batch in self.outbox.batches())
        return carts_told_by(chain(self.store.all_events(), waiting), source)
