"""What operators do to the files: copies put back, folders shared, destinations changed, clocks."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ingestion.carts import checkpoint
from ingestion.carts.checkpoint import generation_after
from ingestion.carts.event_batch import Batch
from ingestion.carts.opening import WaitsForAnotherError
from ingestion.carts.publishing import Rejection, RoundResult
from ingestion.carts.recovery import MadeForAnotherError
from ingestion.carts.replica import Replica
from ingestion.carts.state import StateError
from ingestion.durable_files import identity_of
from tests.support.cart_histories import (
    Document,
    check_no_sequence_twice,
    fold,
    outbox,
    published,
    signature_of,
)
from tests.support.cart_world import START, World, all_down, cart


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world", accept_deletes=True)


def tells_copies(folder: Path) -> bool:
    """Return whether the file system of a folder tells a file from its copy."""
    folder.mkdir(exist_ok=True)
    probe = folder / "probe"
    probe.touch()
    try:
        return bool(identity_of(probe))
    finally:
        probe.unlink()


@pytest.fixture
def needs_identity(tmp_path: Path) -> None:
    if not tells_copies(tmp_path):
        pytest.skip("this file system does not tell a file from its copy")


def poll_and_publish(world: World, *records: Document) -> None:
    world.poll(*records)
    world.publish()


def expected(world: World) -> dict[int, str]:
    return {record["id"]: signature_of(record) for record in world.records}


def test_a_state_put_back_after_everything_was_published_is_refused(world: World) -> None:
    poll_and_publish(world, cart(1))
    old = world.state_file.read_bytes()
    for quantity in (2, 3, 4):
        poll_and_publish(world, cart(1, quantity))
    world.state_file.write_bytes(old)
    with pytest.raises(StateError, match="old copy"):
        world.restart()
    assert world.state_file.read_bytes() == old


def test_a_state_put_back_whose_content_equals_the_answer_is_refused(world: World) -> None:
    poll_and_publish(world, cart(1))
    old = world.state_file.read_bytes()
    poll_and_publish(world, cart(1, 2))
    poll_and_publish(world, cart(1))
    world.state_file.write_bytes(old)
    with pytest.raises(StateError, match="old copy"):
        world.restart()


def test_state_and_checkpoint_put_back_together_are_refused(world: World) -> None:
    poll_and_publish(world, cart(1), cart(2))
    files = (world.state_file, world.events.checkpoint.path)
    old = [path.read_bytes() for path in files]
    poll_and_publish(world, cart(1, 2), cart(2))
    for path, content in zip(files, old, strict=True):
        path.write_bytes(content)
    with pytest.raises(StateError, match="does not know the last events"):
        world.restart()


def test_what_is_among_the_dead_letters_tells_of_an_old_state_and_checkpoint(world: World) -> None:
    poll_and_publish(world, cart(1))
    files = (world.state_file, world.events.checkpoint.path)
    old = [path.read_bytes() for path in files]
    world.poll(cart(1, 2))
    world.publish(lambda events, _: RoundResult([], [Rejection(each, "no") for each in events]))
    for path, content in zip(files, old, strict=True):
        path.write_bytes(content)
    with pytest.raises(StateError, match="does not know the last events"):
        world.restart()


def test_a_new_snapshot_is_the_way_out_and_supersedes_what_was_published(world: World) -> None:
    poll_and_publish(world, cart(1), cart(2))
    old = world.state_file.read_bytes()
    poll_and_publish(world, cart(1, 2), cart(3))
    world.state_file.write_bytes(old)
    world.restart(is_new_snapshot=True)
    poll_and_publish(world, cart(3))
    poll_and_publish(world, cart(3, 2))
    assert fold(world.sent) == expected(world)
    assert world.state_file.with_name("carts_state.replaced.json").read_bytes() == old
    world.restart()
    poll_and_publish(world, cart(3, 3))
    assert fold(world.sent) == expected(world)
    check_no_sequence_twice(world.sent)


@pytest.mark.parametrize("content", [None, b"", b"garbage", b'{"format":1,"generation":"x"}'])
def test_a_new_snapshot_takes_the_place_of_any_state(world: World, content: bytes | None) -> None:
    poll_and_publish(world, cart(1))
    first = world.state()["generation"]
    world.state_file.unlink()
    if content is not None:
        world.state_file.write_bytes(content)
    world.restart(is_new_snapshot=True)
    poll_and_publish(world, cart(1))
    assert first < world.state()["generation"]


def test_a_new_snapshot_waits_for_a_good_answer(world: World) -> None:
    poll_and_publish(world, cart(1))
    before = {path: path.read_bytes() for path in world.folder.rglob("*.json*")}
    world.restart(is_new_snapshot=True)

    def fail() -> None:
        raise OSError("down")

    world.while_asked = fail
    with pytest.raises(OSError, match="down"):
        world.poll()
    assert {path: path.read_bytes() for path in world.folder.rglob("*.json*")} == before


def test_two_state_files_do_not_share_an_events_folder(world: World) -> None:
    poll_and_publish(world, cart(1))
    for content in (None, world.state_file.read_bytes()):
        second = world.folder / "state" / "second.json"
        if content:
            second.write_bytes(content)
        with pytest.raises(MadeForAnotherError, match="belongs to the state file"):
            world.restart(second)


def test_an_outbox_of_a_cold_start_is_adopted_by_no_other_state_file(world: World) -> None:
    world.poll(cart(1))
    (world.state_file).unlink()
    with pytest.raises(MadeForAnotherError, match="belongs to the state file"):
        world.restart(world.folder / "second.json")


def test_a_state_belongs_to_one_events_folder(world: World) -> None:
    poll_and_publish(world, cart(1))
    mine = world.folder / "events"
    mine.rename(world.folder / "elsewhere")
    for _ in range(2):
        with pytest.raises(MadeForAnotherError, match="belongs to another events folder"):
            world.restart()
        # a folder that git keeps for the user is as empty
        mine.mkdir(exist_ok=True)
    world.restart(is_new_snapshot=True)
    world.poll(cart(1))
    assert [event["type"] for event in world.new_events()] == ["com.fakestoreapi.cart_created"]


def test_state_and_events_folder_can_be_moved_together(world: World, tmp_path: Path) -> None:
    poll_and_publish(world, cart(1))
    world.folder.rename(moved := tmp_path.with_name("moved"))
    other = World(moved)
    other.restart()
    other.poll(cart(1, 2))
    assert [event["sequence"] for event in other.new_events()] == ["0000000002"]


@pytest.mark.usefixtures("needs_identity")
@pytest.mark.parametrize("is_in_place", [False, True])
def test_state_and_events_folder_put_back_together_are_refused(
    world: World, tmp_path: Path, is_in_place: bool
) -> None:
    poll_and_publish(world, cart(1))
    shutil.copytree(world.folder, backup := tmp_path / "backup")
    for quantity in (2, 3):
        poll_and_publish(world, cart(1, quantity))
    if not is_in_place:
        shutil.rmtree(world.folder)
    shutil.copytree(backup, world.folder, dirs_exist_ok=True)
    with pytest.raises(StateError, match=r"checkpoint\.json is a copy"):
        world.restart()
    world.restart(is_new_snapshot=True)
    poll_and_publish(world, cart(1, 4))
    world.restart()
    poll_and_publish(world, cart(1, 5))
    check_no_sequence_twice(world.sent)
    assert fold(world.sent) == expected(world)


def test_a_copy_that_no_file_system_tells_is_gone_on_with_and_gives_sequences_twice(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What docs/guarantees.md says of it: what went back is not seen, and what changes is."""
    monkeypatch.setattr(checkpoint, "identity_of", lambda path: "")
    poll_and_publish(world, cart(1), cart(2))
    shutil.copytree(world.folder, backup := tmp_path / "backup")
    poll_and_publish(world, cart(1, 2), cart(2))
    shutil.rmtree(world.folder)
    backup.rename(world.folder)
    world.restart()
    assert world.poll(cart(1), cart(2)).modified == 0
    assert fold(world.sent)[1] == signature_of(cart(1, 2))
    poll_and_publish(world, cart(1, 3), cart(2))
    with pytest.raises(AssertionError, match="was given twice"):
        check_no_sequence_twice(world.sent)
    world.restart(is_new_snapshot=True)
    poll_and_publish(world)
    assert fold(world.sent) == expected(world)


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_backup_of_hard_links_is_refused_once_its_original_has_gone_on(
    world: World, tmp_path: Path, goes_on: bool
) -> None:
    poll_and_publish(world, cart(1))
    backup = tmp_path / "backup"
    shutil.copytree(world.folder, backup, copy_function=os.link)
    if goes_on:
        # so that no day of the event store is in both
        world.now += timedelta(days=1)
        poll_and_publish(world, cart(1, 2))
        poll_and_publish(world, cart(1, 3))
    shutil.rmtree(world.folder)
    backup.rename(world.folder)
    if goes_on:
        with pytest.raises(StateError, match=r"checkpoint\.json is a copy"):
            world.restart()
    world.restart(is_new_snapshot=goes_on)
    poll_and_publish(world, cart(1, 4))
    check_no_sequence_twice(world.sent)
    assert fold(world.sent) == expected(world)


@pytest.mark.usefixtures("needs_identity")
def test_a_copy_stays_one_until_its_new_snapshot_is_taken(world: World, tmp_path: Path) -> None:
    world.poll(cart(1))
    shutil.copytree(world.folder, copied := tmp_path / "copied")
    shutil.rmtree(world.folder)
    copied.rename(world.folder)
    world.restart(is_new_snapshot=True)
    assert world.publish().published == 1
    with pytest.raises(StateError, match="is a copy"):
        world.restart()


@pytest.mark.usefixtures("needs_identity")
def test_a_copy_beside_its_original_is_refused(world: World, tmp_path: Path) -> None:
    poll_and_publish(world, cart(1))
    shutil.copytree(world.folder, copied := tmp_path / "copied")
    with pytest.raises(StateError, match="is a copy"):
        World(copied)
    world.restart()
    poll_and_publish(world, cart(1, 2))


@pytest.mark.parametrize("changed", ["source", "destination"])
def test_another_source_or_destination_is_refused_with_and_without_a_state(
    world: World, changed: str
) -> None:
    poll_and_publish(world, cart(1))
    made_for = getattr(world, changed)
    setattr(world, changed, "another")
    with pytest.raises(MadeForAnotherError, match=f"{made_for}.* another$"):
        world.restart()
    world.state_file.unlink()
    with pytest.raises(MadeForAnotherError, match=f"{made_for}.* another$"):
        world.restart()


def test_the_etag_of_one_source_is_not_sent_to_another(world: World) -> None:
    world.etag = '"same"'
    poll_and_publish(world, cart(1))
    world.source = "http://other/carts"
    world.restart(is_new_snapshot=True)
    assert world.poll(cart(2)).created == 1
    assert world.asked_with == [None, None]


@pytest.mark.parametrize("case", ["pending", "dead", "no checkpoint"])
def test_what_waits_for_one_destination_does_not_leave_for_another(world: World, case: str) -> None:
    world.poll(cart(1))
    if case == "no checkpoint":
        kept = world.events.checkpoint.path.rename(world.folder / "kept.json")
    if case == "dead":
        world.publish(lambda events, _: RoundResult([], [Rejection(each, "no") for each in events]))
    first, world.destination = world.destination, "projects/p/topics/t"
    with pytest.raises(WaitsForAnotherError, match="wait for the destination local only"):
        world.restart(is_new_snapshot=True)
    world.destination = first
    if case == "no checkpoint":
        kept.rename(world.events.checkpoint.path)
    world.restart()
    world.publish()
    world.replay()
    world.destination = "projects/p/topics/t"
    world.restart(is_new_snapshot=True)
    poll_and_publish(world)
    assert fold(world.sent_to["projects/p/topics/t"]) == expected(world)


def test_a_state_without_its_checkpoint_is_refused(world: World) -> None:
    poll_and_publish(world, cart(1))
    world.events.checkpoint.path.unlink()
    with pytest.raises(StateError, match=r"no checkpoint\.json"):
        world.restart()
    world.events.checkpoint.path.write_bytes(b"{}")
    with pytest.raises(StateError, match="cannot be used"):
        world.restart()


def test_an_outbox_without_a_checkpoint_is_refused(world: World) -> None:
    world.poll(cart(1))
    world.state_file.unlink()
    world.events.checkpoint.path.unlink()
    with pytest.raises(MadeForAnotherError, match="for which destination"):
        world.restart()


def test_a_batch_that_was_taken_out_of_the_outbox_is_missed(world: World) -> None:
    world.poll(cart(1))
    world.poll(cart(1, 2))
    world.poll(cart(1, 3))
    outbox(world.folder)[1].unlink()
    with pytest.raises(StateError, match=r"Batch 2 .* is missing"):
        world.restart()


def test_a_batch_that_has_left_is_not_published_again_when_its_file_is_put_back(
    world: World,
) -> None:
    world.poll(cart(1))
    (batch,) = outbox(world.folder)
    content = batch.read_bytes()
    world.publish()
    batch.write_bytes(content)
    world.restart()
    assert (outbox(world.folder), world.publish().published) == ([], 0)


@pytest.mark.parametrize("seen_in", ["checkpoint", "outbox", "published", "dead_letter", "state"])
def test_a_generation_sorts_after_all_that_were_seen_whatever_the_clock_says(
    world: World, seen_in: str
) -> None:
    world.now = START + timedelta(days=365)
    world.poll(cart(1), cart(2))
    if seen_in == "dead_letter":
        world.publish(lambda events, _: RoundResult([], [Rejection(each, "no") for each in events]))
    elif seen_in != "outbox":
        world.publish()
    ahead = world.state()["generation"]
    if seen_in == "state":
        shutil.rmtree(world.folder / "events")
    else:
        world.state_file.unlink()
    if seen_in not in ("checkpoint", "state"):
        world.events.checkpoint.path.unlink()
    world.now = START
    world.restart(is_new_snapshot=True)
    poll_and_publish(world, cart(1, 2))
    world.replay()
    assert ahead < world.state()["generation"]
    assert fold(world.sent) == expected(world)


def test_a_start_reads_nothing_of_what_left_before_the_checkpoint(world: World) -> None:
    """So the days of before may be deleted."""
    for day in range(3):
        world.now = START + timedelta(days=day)
        poll_and_publish(world, cart(1, day + 1))
    days = sorted((world.folder / "events" / "published").glob("*.jsonl"))
    assert len(days) == 3
    for path in days[:-1]:
        path.unlink()
    world.restart()
    current = world.events.checkpoint.current
    assert current
    assert list(world.events.store.published_since(current.published)) == []
    poll_and_publish(world, cart(1, 9))
    assert fold(world.sent) == expected(world)


def test_a_clock_set_back_leaves_the_event_store_in_the_order_of_publishing(world: World) -> None:
    for days in (0, 5, -5, 1):
        world.now = START + timedelta(days=days)
        poll_and_publish(world, cart(1, days + 7))
    assert published(world.folder) == world.sent


def test_a_line_torn_at_midnight_does_not_stay_in_the_file_of_the_day_before(world: World) -> None:
    poll_and_publish(world, cart(1))
    (yesterday,) = (world.folder / "events" / "published").glob("*.jsonl")
    with yesterday.open("ab") as file:
        file.write(b'{"specversion":"1.0","id":"cut')
    world.now += timedelta(days=1)
    world.restart()
    poll_and_publish(world, cart(1, 2))
    assert published(world.folder) == world.sent


def test_tombstones_are_lines_of_their_own_and_their_sequences_go_on(world: World) -> None:
    poll_and_publish(world, *(cart(each) for each in range(3000)))
    poll_and_publish(world, cart(0))
    poll_and_publish(world, cart(0, 2))
    head, _, rest = world.state_file.read_bytes().partition(b"\n")
    assert (len(head) < 1000, rest.count(b"\n") > 3000) == (True, True)
    assert len(world.state()["tombstones"]) == 2999
    before = len(world.sent)
    poll_and_publish(world, cart(0, 2), cart(7), cart(2999), cart(3000))
    events = [json.loads(event) for event in world.sent[before:]]
    assert [(event["subject"], event["sequence"]) for event in events] == [
        ("cart_7", "0000000003"),
        ("cart_2999", "0000000003"),
        ("cart_3000", "0000000001"),
    ]
    ids = {stone["id"] for stone in world.state()["tombstones"]}
    assert ids == set(range(1, 2999)) - {7}
    world.restart()


class Recorder(Replica):
    """Writes down what it is told, and what of it lay on the disk at that moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, int, int]] = []

    def note(self, name: str) -> None:
        self.calls.append((name, len(outbox(self.folder)), len(published(self.folder))))

    def begin_poll(self) -> None:
        self.note("begin_poll")

    def commit(self, batch: Batch | None, *, is_state_saved: bool) -> None:
        self.note(f"commit {batch.number if batch else None} {is_state_saved}")

    def publish_deadline(self) -> float | None:
        self.note("publish_deadline")
        return None

    def record(self, batch: Batch | None, result: RoundResult) -> None:
        self.note(f"record {len(result.acknowledged)}")

    def forget(self, batch: Batch) -> None:
        self.note(f"forget {batch.number}")


def test_a_replica_is_told_of_each_step_once_it_is_durable_here(world: World) -> None:
    world.replica = recorder = Recorder(world.folder)
    world.restart()
    poll_and_publish(world, cart(1), cart(2))
    assert recorder.calls == [
        ("begin_poll", 0, 0),
        ("commit 1 True", 1, 0),
        ("publish_deadline", 1, 0),
        ("record 2", 1, 2),
        ("forget 1", 1, 2),
    ]
    recorder.calls.clear()
    poll_and_publish(world)
    assert [name for name, _, _ in recorder.calls] == ["begin_poll", "commit None False"]


def test_generations_sort_as_they_were_made() -> None:
    first = generation_after(START, "")
    second = generation_after(START, first)
    third = generation_after(START - timedelta(days=1), second)
    fourth = generation_after(START + timedelta(days=1), third)
    assert first < second < third < fourth
    assert generation_after(START, "no generation") < second
    damaged = "20269922T106001999Z-00000000"
    assert damaged < generation_after(START, damaged) < "20269922T106003"


class Operator:
    """Does to a world what operators do, and what its messages tell them to."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world = world
        self.dice = dice
        self.copies: list[dict[Path, bytes]] = []
        self.backups: list[dict[Path, bytes]] = []
        self.tells_copies = tells_copies(world.folder)
        self.first = self.latest = world.now - timedelta(days=4000)
        self.deeds: list[Callable[[], None]] = [
            self.poll,
            self.poll,
            self.publish,
            self.lose_reach,
            self.copy,
            self.put_back,
            self.back_up,
            self.put_all_back,
            self.lose_state,
            self.share_the_folder,
            self.change_destination,
            self.set_the_clock,
        ]

    def act(self) -> None:
        try:
            self.dice.choice(self.deeds)()
        finally:
            self.latest = max(self.latest, self.world.now + timedelta(days=1))

    def poll(self) -> None:
        ids = self.dice.sample(range(1, 7), self.dice.randint(1, 6))
        self.world.poll(*(cart(each, self.dice.randint(1, 3)) for each in ids))

    def publish(self) -> None:
        self.world.publish()

    def lose_reach(self) -> None:
        self.world.publish(lambda events, _: all_down(events))

    def copy(self) -> None:
        paths = [self.world.state_file, self.world.events.checkpoint.path]
        self.copies.append({path: path.read_bytes() for path in paths if path.exists()})

    def put_back(self) -> None:
        if self.copies:
            copy = self.dice.choice(self.copies)
            for path in self.dice.sample(sorted(copy), self.dice.randint(0, len(copy))):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(copy[path])
            self.world.restart()

    def back_up(self) -> None:
        self.backups.append(
            {path: path.read_bytes() for path in self.world.folder.rglob("*") if path.is_file()}
        )

    def put_all_back(self) -> None:
        """Nothing here knows any more of a clock that was ahead, so from now on it is right."""
        self.world.now = self.first = self.latest
        if self.backups and self.tells_copies:
            shutil.rmtree(self.world.folder, ignore_errors=True)
            for path, content in self.dice.choice(self.backups).items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.world.restart()

    def lose_state(self) -> None:
        self.world.state_file.unlink(missing_ok=True)
        if self.dice.random() < 0.5:
            self.world.restart()

    def share_the_folder(self) -> None:
        self.world.restart(self.world.folder / "state" / f"{self.dice.randint(1, 2)}.json")

    def change_destination(self) -> None:
        self.world.destination = self.dice.choice(["local only", "a topic"])
        self.world.restart()

    def set_the_clock(self) -> None:
        moved = self.world.now + timedelta(days=self.dice.randint(-400, 400))
        self.world.now = max(self.first, moved)

    def obey(self) -> None:
        """Do what the messages say: let what waits leave for its destination, then begin anew."""
        current = self.world.destination
        for destination in (current, "local only", "a topic"):
            self.world.destination = destination
            try:
                self.world.restart(is_new_snapshot=True)
            except WaitsForAnotherError:
                continue
            self.world.publish()
            self.world.destination = current
            self.world.restart(is_new_snapshot=True)
            return
        raise AssertionError("no destination takes what waits")


def operate(folder: Path, seed: int) -> None:
    """After every poll that is not refused, its destination adds up to what the source says."""
    world = World(folder, accept_deletes=True)
    operator = Operator(world, random.Random(seed))
    for _ in range(40):
        try:
            operator.act()
        except (StateError, MadeForAnotherError):
            operator.obey()
        check_no_sequence_twice(world.sent)
        if operator.dice.random() < 0.2:
            try:
                operator.poll()
            except (StateError, MadeForAnotherError):
                operator.obey()
                operator.poll()
            world.publish()
            assert fold(world.sent_to[world.destination]) == expected(world)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_operators_do_no_sequence_is_given_twice_and_no_change_is_lost(
    tmp_path: Path, seed: int
) -> None:
    operate(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_whatever_operators_do_in_three_hundred_histories(tmp_path: Path) -> None:
    for seed in range(100, 400):
        operate(tmp_path / str(seed), seed)


@pytest.mark.parametrize("changes", [True, False])
def test_a_loop_notices_that_a_waiting_batch_was_taken_away(tmp_path: Path, changes: bool) -> None:
    """Before it publishes a later one, which the checkpoint would take for the missing one."""
    world = World(tmp_path)
    world.poll(cart(1), cart(2))
    world.publish()
    world.poll(cart(1, 2), cart(2))
    world.publish(all_down)
    (waiting,) = world.events.outbox.batches()
    waiting.path.unlink()
    with pytest.raises(StateError, match=r"Batch 2 .* is missing from the outbox"):
        world.poll(cart(1, 2), cart(2, 2 if changes else 1))
