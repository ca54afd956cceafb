"""Publish the dead letters again, once what Pub/Sub rejected them for has been mended."""

from __future__ import annotations

import logging
from pathlib import Path

from ingestion.carts.event_batch import event_id_of, in_blocks
from ingestion.carts.event_store import EventStore, Position, dead_letters_in, event_of_letter
from ingestion.carts.publishing import PublishRound, PublishTotals, RoundResult, rounds
from ingestion.carts.replica import Replica
from ingestion.durable_files import read_lines, replace_file

log = logging.getLogger(__name__)


def replay_dead_letters(
    store: EventStore, publish_round: PublishRound, replica: Replica
) -> PublishTotals:
    """Publish the dead letters, oldest first; those that leave are dead letters no more.

    A line that is no dead letter stays where it is and is named; a blank one goes.
    """
    totals = PublishTotals()
    for unfinished in store.dead_letters.glob("*.jsonl.tmp"):
        unfinished.unlink()
    for path in store.dead_letter_files():
        # a kill between the event store and the new file of dead letters leaves both
        gone = _ids_published_since(store, path.stem)
        pending = (each for each in dead_letters_in(path) if event_id_of(each) not in gone)
        for events in rounds(pending):
            result = publish_round(events, replica.publish_deadline())
            # what is rejected again already lies here
            acknowledged = RoundResult(result.acknowledged)
            store.settle(acknowledged)
            replica.record(None, acknowledged)
            gone.update(map(event_id_of, result.acknowledged))
            totals.add(result)
            if result.stopped_by:
                break
        _keep_others(path, gone)
        replica.replayed(path)
        if totals.stopped_by:
            break
    return totals


def _ids_published_since(store: EventStore, day: str) -> set[str]:
    ids = set()
    for line in store.published_since(Position(day)):
        try:
            ids.add(event_id_of(line))
        except ValueError:
            continue
    return ids


def _keep_others(path: Path, gone: set[str]) -> None:
    """Leave in the file what is not `gone`; without such lines, no file."""
    kept = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            is_gone = not line.strip() or event_id_of(event_of_letter(line)) in gone
        except ValueError as error:
            is_gone = False
            log.error(
                "line=%d of %s is no dead letter (%s): mend or delete it", number, path, error
            )
        if not is_gone:
            kept.append(line)
    if kept:
        replace_file(path, in_blocks(kept), "replay")
    else:
        path.unlink()
