"""A source, a folder and the stage's parts in this process: polls on real files, in any order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ingestion.carts.checkpoint import Binding
from ingestion.carts.dead_letters import replay_dead_letters
from ingestion.carts.outbox import EventFolder
from ingestion.carts.poller import Poller, PollResult, PollRules
from ingestion.carts.publishing import PublishRound, PublishTotals, RoundResult, StopReason
from ingestion.carts.replica import Replica
from ingestion.carts.state_file import StateFile
from tests.support.cart_histories import Document, published

START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def cart(cart_id: int, quantity: int = 1, **members: Any) -> Document:
    whole = {
        "id": cart_id,
        "userId": 1,
        "date": "2020-03-02T00:00:00.000Z",
        "products": [{"productId": 1, "quantity": quantity}],
        "__v": 0,
    }
    return {**whole, **members}


class ScriptedAnswer:
    """An answer of the source, as `fetch` hands it to its reader."""

    def __init__(self, body: bytes, etag: str | None, not_modified: bool, at: datetime) -> None:
        self.not_modified, self.etag, self.received_at = not_modified, etag, at
        self._body = body

    def blocks(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), 1000):
            yield self._body[start : start + 1000]


class World:
    """A source, a folder, and a stage that is started anew whenever `restart` is called."""

    def __init__(self, folder: Path, accept_deletes: bool = False) -> None:
        self.folder = folder
        self.state_file = folder / "state" / "carts_state.json"
        self.records: list[Document] = []
        self.etag: str | None = None
        self.now = START
        self.asked_with: list[str | None] = []
        self.sent: list[bytes] = []
        self.sent_to: dict[str, list[bytes]] = {}
        self.while_asked: Callable[[], Any] = lambda: None
        self.accept_deletes = accept_deletes
        self.source, self.destination = "http://api/carts", "local only"
        self.replica = Replica()
        self.restart()

    def restart(self, state_file: Path | None = None, *, is_new_snapshot: bool = False) -> None:
        """Start a new process, which finishes at once what the one before has left undone."""
        self.state_file = state_file or self.state_file
        self.events = EventFolder(self.folder / "events", lambda: self.now)
        binding = Binding(
            source=self.source,
            destination=self.destination,
            state_file=os.path.relpath(self.state_file, self.folder / "events"),
        )
        rules = PollRules(1.0, self.accept_deletes, is_new_snapshot)
        state = StateFile(self.state_file)
        self.poller = Poller(state, self.events, binding, self._ask, rules, self.replica)
        self.poller.open()

    def poll(self, *records: Document) -> PollResult:
        self.records = list(records) or self.records
        self.now += timedelta(minutes=1)
        return self.poller.poll()

    def publish(self, publish_round: PublishRound | None = None) -> PublishTotals:
        return self.events.outbox.publish(publish_round or self.take_all, self.replica)

    def replay(self, publish_round: PublishRound | None = None) -> PublishTotals:
        return replay_dead_letters(self.events.store, publish_round or self.take_all, self.replica)

    def take_all(self, events: Sequence[bytes], deadline: float | None = None) -> RoundResult:
        self.sent.extend(events)
        self.sent_to.setdefault(self.destination, []).extend(events)
        return RoundResult(events)

    def state(self) -> Document:
        state: Document = json.loads(self.state_file.read_bytes())
        return state

    def new_events(self) -> list[Document]:
        """Deliver, and return the events that left now."""
        before = len(published(self.folder))
        self.publish()
        return [json.loads(line) for line in published(self.folder)[before:]]

    def _ask(self, read: Callable[[Any], Any], etag: str | None) -> Any:
        self.asked_with.append(etag)
        self.while_asked()
        body = json.dumps(self.records).encode()
        is_same = etag is not None and etag == self.etag
        return read(ScriptedAnswer(b"" if is_same else body, self.etag, is_same, self.now))


def all_down(events: Sequence[bytes], deadline: float | None = None) -> RoundResult:
    return RoundResult([], (), StopReason.UNREACHABLE, "down")
