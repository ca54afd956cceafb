"""What comes before a first poll: load state and checkpoint, and finish what a kill interrupted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from ingestion.carts.checkpoint import Binding, Checkpoint
from ingestion.carts.event_batch import Batch, DamagedBatchError
from ingestion.carts.outbox import EventFolder
from ingestion.carts.recovery import (
    OLD_COPY,
    MadeForAnotherError,
    Recovery,
    check_binding,
    published_batches,
    reconcile,
)
from ingestion.carts.replica import Replica
from ingestion.carts.state import (
    CorruptStateError,
    StateError,
    StateHeader,
    load_header,
    read_sequences,
)
from ingestion.carts.state_file import StateFile, last_poll_file
from ingestion.durable_files import temporary_of
from ingestion.settings import ConfigurationError

log = logging.getLogger(__name__)


class WaitsForAnotherError(ConfigurationError):
    """Not even a new snapshot may begin here before the events of before have left."""


def load(
    state: StateFile, events: EventFolder, binding: Binding, *, ignores_state: bool = False
) -> None:
    """Load state and checkpoint; MadeForAnotherError where they are not for this `binding`.

    With `ignores_state` a new snapshot is to be taken, whatever the state says. Events that still
    wait for another destination must not go to this one: WaitsForAnotherError.
    """
    events.checkpoint.load(ignores_damage=ignores_state)
    if not ignores_state:
        state.load()
        if state.header and not events.newest_generation():
            raise MadeForAnotherError(
                f"{state.path} belongs to another events folder: in {events.folder} no event of "
                "it has ever been"
            )
        check_binding(binding, str(state.path), state.header, events.checkpoint.current)
        return
    state.pretend_absent()
    if not (events.outbox.batches() or events.store.dead_letter_files()):
        return
    waits_for = _destination_of_before(state, events.checkpoint.current)
    if waits_for and binding.destination not in ("", waits_for):
        raise WaitsForAnotherError(
            f"Events in {events.outbox.folder} or {events.store.dead_letters} wait for the "
            f"destination {waits_for}, and this run has {binding.destination}: publish them there "
            f"first, or give this run a --state-file and an --events-dir of its own."
        )


def _destination_of_before(state: StateFile, checkpoint: Checkpoint | None) -> str:
    """Return for which destination the events here were made; empty where nothing says it."""
    if checkpoint:
        return checkpoint.binding.destination
    try:
        header = load_header(state.path)
    except CorruptStateError:
        header = None
    return header.destination if header else ""


def recover(
    state: StateFile,
    events: EventFolder,
    binding: Binding,
    replica: Replica,
    *,
    ignores_state: bool = False,
) -> None:
    """Finish what a killed process had begun, no more; StateError where that cannot be."""
    outbox, checkpoint = events.outbox, events.checkpoint.current
    outbox.sweep()
    # what a kill in the middle of a write has left beside the other files
    for path in (state.path, last_poll_file(state.path), events.checkpoint.path):
        temporary_of(path).unlink(missing_ok=True)
    for path in events.store.dead_letters.glob("*.jsonl.tmp"):
        path.unlink()
    if ignores_state:
        found = Recovery(published_batches(checkpoint, outbox.batches()), [])
    else:
        found = reconcile(state.header, checkpoint, outbox.batches())
    for batch in found.published:
        outbox.remove(batch, replica)
    unapplied = _check_batches(outbox.batches(), found.unapplied)
    for batch in unapplied:
        _adopt(batch, state, binding)
        replica.commit(batch, is_state_saved=True)
        log.warning("recovered an interrupted poll batch=%s", batch.path.name)
    if state.header and checkpoint:
        _check_that_nothing_newer_left(state, events, checkpoint)
    if events.checkpoint.copied_from and not ignores_state:
        raise StateError(
            f"{events.checkpoint.path} "
            "is a copy, and nobody can tell whether its original has gone on. "
            "Nothing was changed."
        )


def empty_state(binding: Binding, generation: str) -> StateHeader:
    """Return the header of a generation that begins."""
    return StateHeader(
        generation=generation,
        batch=0,
        source=binding.source,
        destination=binding.destination,
        observed_at="",
        cart_count=0,
    )


def _check_that_nothing_newer_left(
    state: StateFile, events: EventFolder, checkpoint: Checkpoint
) -> None:
    """Raise StateError where the event store knows more than the state.

    State and checkpoint of before were put back together, and event store and dead letters not.
    """
    is_superseded = events.store.newest_generation(checkpoint.published) > checkpoint.generation
    highest = events.store.sequences_since(checkpoint.published, checkpoint.generation)
    if highest:
        state.bring_here()
    known = read_sequences(state.path, highest) if highest else {}
    if is_superseded or any(
        sequence > known.get(cart_id, "") for cart_id, sequence in highest.items()
    ):
        raise StateError(f"{state.path} does not know the last events: {OLD_COPY}")


def _check_batches(pending: Sequence[Batch], unapplied: Sequence[Batch]) -> Sequence[Batch]:
    """Return those that the state lacks; DamagedBatchError where one is not what was written."""
    for batch in pending:
        try:
            batch.check()
        except DamagedBatchError:
            if not unapplied or batch.path != unapplied[-1].path:
                raise
            # only a disk that lost what it had promised does this; the batch was in no state yet,
            # so nothing of it has left, and the next poll finds its changes again
            log.warning("dropped a damaged batch that was in no state batch=%s", batch.path)
            batch.path.unlink()
            return unapplied[:-1]
    return unapplied


def _adopt(batch: Batch, state: StateFile, binding: Binding) -> None:
    """Take into the state a batch that it lacks."""
    header = state.header or empty_state(binding, batch.generation)
    # without validators the next answer is looked at, whatever it is
    observed_at = batch.header().observed_at
    header = replace(header, observed_at=observed_at, etag=None, body=None)
    state.follow(header, batch, state.index())
