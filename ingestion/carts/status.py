"""What the stage would go on from, in one screen; nobody is asked, and nothing changed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ingestion.carts.outbox import EventFolder
from ingestion.carts.replica import Replica
from ingestion.carts.state_file import StateFile
from ingestion.durable_files import AnotherWriterError, single_writer
from ingestion.settings import ConfigurationError

if TYPE_CHECKING:
    from ingestion.carts.head import Head


@dataclass
class Status:
    """What is known of a state; None where there is none yet, or nobody holds it."""

    source: str | None
    destination: str | None
    generation: str | None
    last_good_poll: str | None
    carts: int
    waiting: int
    dead_letters: int
    held_deletions: int
    holder: str | None

    def exit_code(self) -> int:
        """Return 3 where something waits for somebody."""
        return 3 if self.waiting or self.dead_letters or self.held_deletions else 0


def status_of(replica: Replica, state: StateFile, events: EventFolder) -> Status:
    """Return the status of a bucket, or of the local files where there is none."""
    head = replica.head()
    return status_of_bucket(head) if head else status_of_disk(state, events)


def print_status(status: Status, *, as_json: bool) -> None:
    """Print one member a line, or JSON."""
    members = asdict(status)
    if as_json:
        print(json.dumps(members))
        return
    for name, value in members.items():
        print(f"{name.replace('_', ' '):15} {'-' if value is None else value}")


def status_of_disk(state: StateFile, events: EventFolder) -> Status:
    """Return the status of local files; StateError where they cannot be read.

    ConfigurationError where they are a working copy, which is what some poll has left here.
    """
    state.load()
    events.checkpoint.load()
    checkpoint, header = events.checkpoint.current, state.header
    binding = checkpoint.binding if checkpoint else None
    if binding and binding.state_file.startswith("gs://"):
        raise ConfigurationError(
            f"{state.path} is a working copy of {binding.state_file}: give --state-bucket to see "
            "what is so there."
        )
    return Status(
        source=binding.source if binding else None,
        destination=binding.destination if binding else None,
        generation=checkpoint.generation if checkpoint else None,
        last_good_poll=state.last_good_poll,
        carts=header.cart_count if header else 0,
        waiting=events.outbox.waiting(),
        dead_letters=events.store.dead_letter_count(),
        held_deletions=len(header.held_deletions.cart_ids) if header else 0,
        holder=_holder_of(state.path),
    )


def status_of_bucket(head: Head) -> Status:
    """Return what the head of a state bucket says; of a long header only what stands beside it."""
    binding = head.checkpoint.binding if head.checkpoint else None
    return Status(
        source=binding.source if binding else None,
        destination=binding.destination if binding else None,
        generation=head.checkpoint.generation if head.checkpoint else None,
        last_good_poll=head.last_good_poll,
        carts=head.carts,
        waiting=sum(batch.events for batch in head.pending),
        dead_letters=head.dead_letters,
        held_deletions=head.held_deletions,
        holder=f"{head.holder} until {head.lease_end.isoformat()}" if head.lease_end else None,
    )


def _holder_of(state_file: Path) -> str | None:
    if not state_file.exists():
        return None
    try:
        with single_writer(state_file):
            return None
    except AnotherWriterError as error:
        return f"pid {error.pid or 'unknown'}"
