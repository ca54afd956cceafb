"""What state, checkpoint and outbox together mean at a start: what is old, and what is to be done.

Pure: nothing is written here. The rule behind it: a (cart, generation, sequence) is given once.
So a state goes on only where it is certain that no later one ever existed; everything else is
refused, and a new generation is the way out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ingestion.carts.checkpoint import Binding, Checkpoint
from ingestion.carts.event_batch import Batch
from ingestion.carts.state import StateError, StateHeader
from ingestion.settings import ConfigurationError

OLD_COPY = "it seems to be an old copy that was put back. Nothing was changed."


class MadeForAnotherError(ConfigurationError):
    """State or events folder were made for another source, destination or state file."""


class Recovery(NamedTuple):
    """What a killed process had begun.

    All events of the batches in `published` are published, and only their files are still there;
    those in `unapplied` are not in the state yet.
    """

    published: list[Batch]
    unapplied: list[Batch]


def check_binding(
    binding: Binding, state_file: str, header: StateHeader | None, checkpoint: Checkpoint | None
) -> None:
    """Raise MadeForAnotherError unless state and checkpoint were made for what is asked for.

    An empty destination, that of a dry run, is not compared.
    """
    found = []
    if header:
        found.append((state_file, header.source, header.destination))
    if checkpoint:
        made_for = checkpoint.binding
        found.append(("the events folder", made_for.source, made_for.destination))
        if made_for.state_file != binding.state_file:
            raise MadeForAnotherError(
                f"The events folder belongs to the state file {made_for.state_file} (from there), "
                f"and this run has {binding.state_file}"
            )
    for what, source, destination in found:
        if source != binding.source:
            raise MadeForAnotherError(
                f"{what} was made for the source {source}, and this run asks {binding.source}"
            )
        if binding.destination and destination != binding.destination:
            raise MadeForAnotherError(
                f"{what} was made for the destination {destination}, and this run has "
                f"{binding.destination}"
            )


def reconcile(
    header: StateHeader | None, checkpoint: Checkpoint | None, batches: Sequence[Batch]
) -> Recovery:
    """Return what a start has to finish; StateError where it cannot be gone on with."""
    if checkpoint is None:
        return _without_checkpoint(header, batches)
    if header and header.generation != checkpoint.generation:
        raise StateError(
            f"The state is of generation {header.generation}, and the events folder of "
            f"{checkpoint.generation}: {OLD_COPY}"
        )
    if batches and batches[-1].generation > checkpoint.generation:
        raise StateError(f"The events folder's checkpoint is older than {batches[-1].path}.")
    if header and header.batch < checkpoint.batch:
        raise StateError(
            f"The state ends with batch {header.batch}, and batch {checkpoint.batch} was "
            f"published: {OLD_COPY}"
        )
    pending = check_outbox(header, checkpoint, batches)
    published = published_batches(checkpoint, batches)
    if header is None and checkpoint.batch:
        # no cold start that was killed: this state was lost later, and a new one begins
        return Recovery(published, [])
    known = header.batch if header else 0
    return Recovery(published, [batch for batch in pending if batch.number > known])


def check_outbox(
    header: StateHeader | None, checkpoint: Checkpoint, batches: Sequence[Batch]
) -> list[Batch]:
    """Return the batches that are not published yet; StateError where one was taken away."""
    current = [batch for batch in batches if batch.generation == checkpoint.generation]
    pending = [batch for batch in current if batch.number > checkpoint.batch]
    last = max(header.batch if header else 0, pending[-1].number if pending else 0)
    missing = set(range(checkpoint.batch + 1, last + 1)) - {batch.number for batch in pending}
    if missing:
        raise StateError(
            f"Batch {min(missing)} of generation {checkpoint.generation} is missing from the "
            f"outbox, and was never published."
        )
    return pending


def published_batches(checkpoint: Checkpoint | None, batches: Sequence[Batch]) -> list[Batch]:
    """Return the batches that are published, whatever the state says."""
    return [
        batch
        for batch in batches
        if checkpoint
        and batch.generation == checkpoint.generation
        and batch.number <= checkpoint.batch
    ]


def _without_checkpoint(header: StateHeader | None, batches: Sequence[Batch]) -> Recovery:
    if header:
        raise StateError(
            "The events folder has no checkpoint.json beside its outbox, so nobody can tell "
            "whether this state is the newest."
        )
    if batches:
        raise MadeForAnotherError(
            f"{batches[-1].path} waits, and no checkpoint.json says for which destination"
        )
    return Recovery([], [])
