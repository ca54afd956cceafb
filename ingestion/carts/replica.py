"""Where the state and the events live besides this disk: told of each step that is durable here.

A poll works on local files in any case. What lets those files vanish (a bucket that holds the
truth, a lease on it) is a `Replica`: the poll tells it what has become durable, and it makes that
durable elsewhere before it returns. The base class is the disk alone, where there is no more to do.

One poll calls, in this order:

    begin_poll()                 before anything is read: take or renew the lease
    commit(batch, ...)           batch and state are durable here, nothing of it is published yet
    publish_deadline()           before each round of publishing
    record(batch, result)        the round stands in published/ and dead_letter/ here
    forget(batch)                all of the batch has left; its file is removed after this
    release()                    once, at the end of the process

What a method raises ends the poll: a kill at that instruction would have done the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ingestion.carts.event_batch import Batch
from ingestion.carts.publishing import RoundResult
from ingestion.carts.state import StateHeader

if TYPE_CHECKING:
    from ingestion.carts.head import Head

# below it lies everything in a state bucket
BUCKET_FOLDER = "near_realtime/"


class StateElsewhere(NamedTuple):
    """A state whose file is not here: a name that no other state has, and its header."""

    name: str
    header: StateHeader


class Replica:
    """The disk alone. Each method may be replaced, and must have done its work when it returns."""

    def begin_poll(self) -> None:
        """Take or renew the lease; may put other files in the place of the local ones.

        Called before the state, the checkpoint and the outbox are looked at, also by a replay of
        dead letters. The poll loads everything anew where the state is another file than the one
        that it saved. Raises LeaseHeldError where another process is at work.
        """

    def head(self) -> Head | None:
        """Return what is said of the state elsewhere, without taking the lease."""
        return None

    def look(self) -> None:
        """Put the local files as a poll would find them, without taking the lease."""

    def state_elsewhere(self) -> StateElsewhere | None:
        """Return what is known of the state while its file is not here; None where it is."""
        return None

    def check_state(self) -> None:
        """Raise StateError where there is a state of which the file has gone."""

    def fetch_state(self) -> None:
        """Put the state's file here; called before the first look at its carts."""

    def newest_generation(self) -> str:
        """Return the newest generation that is known elsewhere; asked when one begins."""
        return ""

    def commit(self, batch: Batch | None, *, is_state_saved: bool) -> None:
        """Commit the poll: its batch, where it has one, and the state after it lie here.

        A good poll that found nothing new has neither: only its time was noted beside the state.
        """

    def publish_deadline(self) -> float | None:
        """Return the time.monotonic() by which a round must have ended, or None for no bound."""
        return None

    def record(self, batch: Batch | None, result: RoundResult) -> None:
        """Keep what became of a round; `batch` is None where dead letters were replayed."""

    def replayed(self, dead_letters: Path) -> None:
        """Keep what is left of a file of dead letters; it is gone where nothing is left."""

    def forget(self, batch: Batch) -> None:
        """Take a batch out of what is pending: all of its events have left or are dead letters."""

    def release(self) -> None:
        """Give the lease back."""
