"""The stage killed at every durable step it takes, on random histories; nothing lost or doubled.

Each kill is a real SIGKILL of a real process, at a step that FAILPOINT names or halfway through
the write of a file; the store changes between the kill and the restart. In the histories of
`Operators`, people also put states back, change destinations, share folders, and clocks are wrong.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import grpc
import pytest
from google.pubsub_v1 import PubsubMessage

from ingestion.durable_files import STEPS
from tests.support.cart_histories import (
    KILLED,
    CartsSource,
    Ended,
    check_guarantees,
    check_no_sequence_twice,
    fold,
    outbox,
    published,
    run_stage,
)
from tests.support.recording_pubsub import RecordingPubSub

LOCAL = ("--once", "--local-only", "--accept-deletes")
PUBSUB = ("--once", "--project-id", "local-project", "--accept-deletes")


def steps_of(*files: str) -> list[str]:
    return [step for step in STEPS if step.partition("-")[0] in files]


# what a poll does without Pub/Sub, what it does besides with it, and what a replay does
LOCAL_STEPS = steps_of("batch", "checkpoint", "state", "published")
PUBSUB_STEPS = [*LOCAL_STEPS, *steps_of("event", "dead_letter")]
REPLAY_STEPS = steps_of("event", "published", "replay")


def crash(
    folder: Path,
    source: CartsSource,
    dice: random.Random,
    kills: int,
    flags: tuple[str, ...] = LOCAL,
    steps: list[str] = LOCAL_STEPS,
    env: dict[str, str] | None = None,
) -> set[str]:
    """Kill run after run until `kills` have hit, the store changing in between."""
    hit: list[str] = []
    while len(hit) < kills:
        source.mutate(dice)
        step = dice.choice(steps)
        failpoint = f"{step}:{dice.choice((1, 1, 2))}"
        ended = run_stage(folder, source.url, *flags, env={**(env or {}), "FAILPOINT": failpoint})
        assert ended.code in (0, 3, KILLED), ended.log
        if ended.code == KILLED:
            hit.append(step)
    return set(hit)


def finish_and_check(folder: Path, source: CartsSource) -> None:
    ended = run_stage(folder, source.url, *LOCAL)
    assert ended.code == 0, ended.log
    assert outbox(folder) == []
    assert list((folder / "events").rglob("*.tmp")) == []
    check_guarantees(published(folder), source)


def refuse_some(message: PubsubMessage) -> grpc.StatusCode | None:
    """Refuse about every fifth event for ever, whichever process sends it.

    Which ones follows from the seed alone: an event's id and times are others in every run.
    """
    event = json.loads(message.data)
    refused = (event["data"]["cart_id"] + int(event["sequence"])) % 5 == 0
    return grpc.StatusCode.INVALID_ARGUMENT if refused else None


def crash_with_pubsub(
    folder: Path, source: CartsSource, pubsub: RecordingPubSub, seed: int, kills: int
) -> None:
    """Kill polls and replays, with replies lost and events refused, then let all through."""
    dice = random.Random(seed)
    pubsub.judge, pubsub.loses_replies = refuse_some, True
    crash(folder, source, dice, kills, PUBSUB, PUBSUB_STEPS, pubsub.environment)
    pubsub.judge = lambda message: None
    # what was rejected lies among the dead letters until it is replayed
    assert run_stage(folder, source.url, *PUBSUB, env=pubsub.environment).code == 3
    replay = (*PUBSUB, "--replay-dead-letters")
    for step in REPLAY_STEPS if kills > 10 else ["published-appended"]:
        run_stage(folder, source.url, *replay, env={**pubsub.environment, "FAILPOINT": step})
    assert run_stage(folder, source.url, *replay, env=pubsub.environment).code == 0
    assert list((folder / "events" / "dead_letter").glob("*.jsonl")) == []
    # a dead letter arrives after the later events of its cart
    check_guarantees(pubsub.documents, source, in_order=False)
    check_guarantees(published(folder), source, in_order=False)


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_steps_it_loses_and_doubles_nothing(
    tmp_path: Path, source: CartsSource, seed: int
) -> None:
    crash(tmp_path, source, random.Random(seed), kills=8)
    finish_and_check(tmp_path, source)


def test_killed_while_it_publishes_it_loses_and_doubles_nothing(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    crash_with_pubsub(tmp_path, source, pubsub, seed=3, kills=6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 110))
def test_killed_twenty_times_it_loses_and_doubles_nothing(
    tmp_path: Path, source: CartsSource, seed: int
) -> None:
    hit = crash(tmp_path, source, random.Random(seed), kills=20)
    assert len(hit) >= len(LOCAL_STEPS) // 2
    finish_and_check(tmp_path, source)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(200, 205))
def test_killed_twenty_times_while_it_publishes_it_loses_and_doubles_nothing(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub, seed: int
) -> None:
    crash_with_pubsub(tmp_path, source, pubsub, seed, kills=20)


@pytest.mark.parametrize("step", LOCAL_STEPS)
def test_a_cold_start_killed_at_any_step_ends_as_one_whole_snapshot(
    tmp_path: Path, source: CartsSource, step: str
) -> None:
    assert run_stage(tmp_path, source.url, *LOCAL, env={"FAILPOINT": step}).code == KILLED
    source.put(1, (9, 9))
    del source.carts[2]
    source.put(8, (8, 8))
    finish_and_check(tmp_path, source)


@pytest.mark.parametrize(
    "step", ["none", "batch-written", "batch-replaced", "state-replaced", "published-torn"]
)
def test_a_lost_state_costs_a_second_snapshot_and_no_wrong_figure(
    tmp_path: Path, source: CartsSource, step: str
) -> None:
    """Also when the cold start that follows is killed, and the store changes in between."""
    run_stage(tmp_path, source.url, *LOCAL)
    source.put(1, (7, 7))
    run_stage(tmp_path, source.url, *LOCAL)
    (tmp_path / "state" / "carts_state.json").unlink()
    source.put(1, (1, 1), (1, 2))
    del source.carts[2]
    source.put(9, (9, 9))
    killed = run_stage(tmp_path, source.url, *LOCAL, env={"FAILPOINT": step})
    assert killed.code == (0 if step == "none" else KILLED)
    source.put(1, (2, 2))
    del source.carts[3]
    finish_and_check(tmp_path, source)


@pytest.mark.parametrize("step", [*steps_of("last_poll"), *steps_of("quarantine")])
def test_a_kill_at_what_is_not_on_the_way_of_events_costs_nothing(
    tmp_path: Path, source: CartsSource, step: str
) -> None:
    for cart_id in range(10, 30):
        source.put(cart_id, (1, 1))
    run_stage(tmp_path, source.url, *LOCAL)
    if step.startswith("quarantine"):
        source.carts[1]["userId"] = "nobody"
    assert run_stage(tmp_path, source.url, *LOCAL, env={"FAILPOINT": step}).code == KILLED
    source.put(1, (5, 5))
    finish_and_check(tmp_path, source)


class Operators:
    """Runs that are killed now and then, with what operators do in between."""

    destinations = (
        ("--local-only",),
        ("--project-id", "p", "--topic", "topic-a"),
        ("--project-id", "p", "--topic", "topic-b"),
    )

    def __init__(
        self, folder: Path, source: CartsSource, pubsub: RecordingPubSub, seed: int
    ) -> None:
        self.folder, self.source, self.pubsub = folder, source, pubsub
        self.dice = random.Random(seed)
        self.destination = self.destinations[0]
        self.state_name = "carts_state.json"
        self.clock_days = 0.0
        self.copies: list[tuple[Path, bytes]] = []
        self.kills = self.refusals = 0

    def interfere(self) -> None:
        deed = self.dice.randrange(8)
        state = self.folder / "state" / self.state_name
        if deed == 0:
            self.copies += [(path, path.read_bytes()) for path in [state] if path.exists()]
        elif deed == 1 and self.copies:
            path, content = self.dice.choice(self.copies)
            path.write_bytes(content)
        elif deed == 2:
            state.unlink(missing_ok=True)
        elif deed == 3:
            self.destination = self.dice.choice(self.destinations)
        elif deed == 4:
            self.state_name = self.dice.choice(["carts_state.json", "second.json"])
        elif deed == 5:
            self.clock_days = self.dice.choice([0, -400, -1, 1, 400])

    def run(self, *flags: str, destination: tuple[str, ...] = (), is_killed: bool) -> Ended:
        env = dict(self.pubsub.environment)
        if is_killed:
            step = self.dice.choice(PUBSUB_STEPS)
            env["FAILPOINT"] = f"{step}:{self.dice.choice((1, 1, 2))}"
        state_file = self.folder / "state" / self.state_name
        common = ("--once", "--accept-deletes", "--state-file", str(state_file))
        ended = run_stage(
            self.folder,
            self.source.url,
            *(*common, *flags, *(destination or self.destination)),
            env=env,
            clock_days=self.clock_days,
        )
        assert ended.code in (0, 1, 2, KILLED), ended.log
        assert "Traceback" not in ended.log
        self.kills += ended.code == KILLED
        return ended

    def run_as_told(self) -> Ended:
        """Run; where it is refused do what the message says, with kills all the way."""
        ended = self.run(is_killed=self.dice.random() < 0.6)
        while ended.code in (1, 2):
            self.refusals += 1
            assert self.refusals < 200, ended.log
            is_killed = self.dice.random() < 0.3
            for destination in (self.destination, *self.destinations):
                ended = self.run("--new-snapshot", destination=destination, is_killed=is_killed)
                if ended.code not in (1, 2):
                    break
            if destination != self.destination:
                ended = self.run("--new-snapshot", is_killed=is_killed)
        return ended

    def check(self) -> None:
        """Nothing was silently lost: what this destination was sent adds up to the source."""
        sent = published(self.folder)
        topic = self.destination[-1]
        for documents in [sent, *([self.pubsub.by_topic[topic]] if "topic" in topic else [])]:
            assert fold(documents) == self.source.signatures()

    def work(self, kills: int) -> None:
        while self.kills < kills:
            self.source.mutate(self.dice)
            self.interfere()
            if self.run_as_told().code == 0:
                self.check()
        while self.run_as_told().code != 0:
            pass
        self.check()
        check_no_sequence_twice([*published(self.folder), *self.pubsub.documents])
        assert list((self.folder / "events" / "outbox").glob("*.tmp")) == []


def test_killed_while_operators_interfere_it_loses_nothing_and_gives_no_sequence_twice(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    Operators(tmp_path, source, pubsub, seed=5).work(kills=8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(300, 310))
def test_killed_fifteen_times_while_operators_interfere(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub, seed: int
) -> None:
    operators = Operators(tmp_path, source, pubsub, seed)
    operators.work(kills=15)
    assert operators.refusals
