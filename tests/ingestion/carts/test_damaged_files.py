"""Each file of state and events, damaged: what the messages say to do leads out of it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import near_realtime_ingestion_2 as stage
from ingestion.carts.publishing import Rejection, RoundResult, StopReason
from tests.support.cart_histories import (
    CartsSource,
    check_no_sequence_twice,
    fold,
    outbox,
    run_here,
)

LOCAL = ("--once", "--local-only")
FILES = {
    "state": "state/carts_state.json",
    "last poll": "state/carts_state.last_poll.json",
    "checkpoint": "events/checkpoint.json",
    "published": "events/published/*.jsonl",
    "dead letters": "events/dead_letter/*.jsonl",
}
WAITING = {**FILES, "batch": "events/outbox/*.jsonl"}
# of a byte that is flipped, as a share of the file: in names, in values, between them
PLACES = (0.05, 0.3, 0.55, 0.6, 0.8)
COMMAND = re.compile(r"'python (near_realtime_ingestion_2\.py [^']*)'")
MOVE_AWAY = re.compile(r"(/\S+?\.jsonl?)\b.* (?:Move it away and|mend this)")


class Destination:
    """Stands in for Pub/Sub: remembers, rejects, or is not there."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.rejects: Callable[[bytes], bool] = lambda event: False
        self.is_down = False

    def publish(self, events: Sequence[bytes], deadline: float | None = None) -> RoundResult:
        if self.is_down:
            return RoundResult([], (), StopReason.UNREACHABLE, "down")
        rejected = [Rejection(event, "no") for event in events if self.rejects(event)]
        taken = [event for event in events if not self.rejects(event)]
        self.sent += taken
        return RoundResult(taken, rejected)


@pytest.fixture
def destination(monkeypatch: pytest.MonkeyPatch) -> Destination:
    made = Destination()
    monkeypatch.setattr(stage, "acknowledge_all", made.publish)
    return made


def fill(folder: Path, source: CartsSource, destination: Destination, *, waits: bool) -> None:
    """Leave each of the files in the folder; the dead letter is of no account by now."""
    run_here(folder, source.url, *LOCAL)
    destination.rejects = lambda event: json.loads(event)["subject"] == "cart_5"
    source.put(5, (5, 5))
    run_here(folder, source.url, *LOCAL)
    destination.rejects = lambda event: False
    source.put(5, (5, 6))
    run_here(folder, source.url, *LOCAL)
    run_here(folder, source.url, *LOCAL)
    destination.is_down = waits
    source.put(1, (1, 7))
    run_here(folder, source.url, *LOCAL)
    source.put(2, (1, 7))
    run_here(folder, source.url, *LOCAL)
    destination.is_down = False
    source.put(3, (1, 7))


def damage(file: Path, how: str | float) -> None:
    content = file.read_bytes()
    if how == "directory":
        file.unlink()
        file.mkdir()
        return
    if isinstance(how, float):
        place = int(len(content) * how)
        damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    else:
        others = {"empty": b"", "truncated": content[: len(content) // 2], "another": b"{}\n"}
        damaged = others[how]
    file.write_bytes(damaged)


def obey(folder: Path, source: CartsSource) -> list[str]:
    """Run, and do what the messages say until a run goes through; return what was said."""
    said: list[str] = []
    flags: Sequence[str] = LOCAL
    while (ended := run_here(folder, source.url, *flags)).code not in (0, 3):
        message = ended.log.strip().splitlines()[-1]
        assert message not in said, "a dead end"
        said.append(message)
        if in_the_way := MOVE_AWAY.search(message):
            Path(in_the_way[1]).rename(folder / f"moved away {len(said)}")
        command = COMMAND.search(message)
        flags = shlex.split(command[1])[1:] if command else LOCAL
    return said


@pytest.mark.parametrize("how", ["empty", "truncated", "another", "directory", *PLACES])
@pytest.mark.parametrize(
    ("name", "waits"), [*((name, False) for name in FILES), *((name, True) for name in WAITING)]
)
def test_what_the_message_on_a_damaged_file_says_leads_out_of_it(
    tmp_path: Path,
    source: CartsSource,
    destination: Destination,
    name: str,
    waits: bool,
    how: str | float,
) -> None:
    fill(tmp_path, source, destination, waits=waits)
    damage(min(tmp_path.glob(WAITING[name])), how)
    # the second time a file may be looked at that the first poll had no need of
    said = obey(tmp_path, source) + obey(tmp_path, source)
    assert len(said) <= 2
    check_no_sequence_twice(destination.sent)
    assert fold(destination.sent) == source.signatures()


def test_a_damaged_checkpoint_is_kept_and_the_new_snapshot_sorts_after_all_that_was_seen(
    tmp_path: Path, source: CartsSource, destination: Destination
) -> None:
    fill(tmp_path, source, destination, waits=True)
    checkpoint = tmp_path / "events" / "checkpoint.json"
    checkpoint.write_bytes(b"damaged")
    waiting = [event for file in outbox(tmp_path) for event in file.read_bytes().splitlines()[1:-1]]
    state = json.loads((tmp_path / FILES["state"]).read_bytes())
    (said,) = obey(tmp_path, source)
    assert "checkpoint.json cannot be used" in said
    assert checkpoint.with_name("checkpoint.replaced.json").read_bytes() == b"damaged"
    # what waited leaves first, and has the ids that it had
    first = destination.sent.index(waiting[0])
    assert destination.sent[first : first + len(waiting)] == waiting
    began = {json.loads(event)["generation"] for event in destination.sent[first + len(waiting) :]}
    assert min(began) > state["generation"]
