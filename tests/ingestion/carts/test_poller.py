"""Polls on real files, in this process: the state, the outbox, the event store, dead letters."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.carts import publishing
from ingestion.carts.event_batch import DamagedBatchError
from ingestion.carts.poller import PollResult
from ingestion.carts.publishing import (
    PublishRound,
    Rejection,
    RoundResult,
    StopReason,
)
from ingestion.carts.state import CorruptStateError, StateError, load_header, read_index
from ingestion.carts.state_file import TouchedStateError
from ingestion.durable_files import read_lines
from tests.support.cart_histories import Document, fold, outbox, published, signature_of
from tests.support.cart_world import World, all_down, cart


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


carts = st.dictionaries(
    st.integers(1, 8),
    st.builds(
        lambda quantity, version, user: {"quantity": quantity, "__v": version, "userId": user},
        st.integers(1, 2),
        st.integers(0, 1),
        st.integers(1, 2),
    ),
    min_size=1,
)


@settings(max_examples=40)
@given(st.lists(carts, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_whatever_the_history_the_events_fold_to_the_answer(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[dict[int, Document]],
    dice: random.Random,
) -> None:
    """Carts known by their bytes are not compared: that must not show in any event."""
    folder = tmp_path_factory.mktemp("history")
    world = World(folder, accept_deletes=True)
    for answer in history:
        records = [cart(cart_id, **members) for cart_id, members in answer.items()]
        dice.shuffle(records)
        if dice.random() < 0.3:
            world.restart()
        result = world.poll(*records)
        expected = {each["id"]: signature_of(each) for each in records}
        world.publish()
        assert fold(published(folder)) == expected
        lines = world.state()["carts"]
        assert {each["cart"]["id"]: each["signature"] for each in lines} == expected
        assert world.poll() == PollResult(changed=False, carts=result.carts)
    shutil.rmtree(folder)


def test_a_cold_start_creates_every_cart_and_says_how_many_there_are(world: World) -> None:
    assert world.poll(cart(2), cart(1)) == PollResult(changed=True, carts=2, created=2)
    events = world.new_events()
    assert [event["subject"] for event in events] == ["cart_1", "cart_2"]
    assert {event["data"]["snapshot"]["size"] for event in events} == {2}
    assert {event["generation"] for event in events} == {world.state()["generation"]}
    assert {event["data"]["observed_after"] for event in events} == {None}
    world.poll(cart(1), cart(2), cart(3))
    assert "snapshot" not in world.new_events()[0]["data"]


def test_a_sequence_survives_the_deletion_of_its_cart(world: World) -> None:
    world.poll(cart(1), cart(2))
    world.poll(cart(1))
    assert world.state()["tombstones"] == [{"id": 2, "sequence": "0000000002"}]
    world.restart()
    world.poll(cart(1), cart(2))
    assert world.new_events()[-1]["sequence"] == "0000000003"
    assert world.state()["tombstones"] == []


def test_time_is_when_the_poll_that_saw_it_was_answered(world: World) -> None:
    world.poll(cart(1))
    world.poll()
    world.restart()
    world.poll(cart(1, 2))
    event = world.new_events()[-1]
    assert event["time"] == event["data"]["observed_before"] == "2026-11-22T10:03:00.000000Z"
    # the unchanged poll in between wrote no state, and is remembered across the restart
    assert event["data"]["observed_after"] == "2026-11-22T10:02:00.000000Z"


def test_an_unchanged_answer_writes_no_state(world: World) -> None:
    world.poll(cart(1))
    before = world.state_file.stat().st_mtime_ns
    assert not world.poll().changed
    assert world.state_file.stat().st_mtime_ns == before


def test_a_poll_is_conditional_once_there_is_an_etag(world: World) -> None:
    world.etag = 'W/"1"'
    world.poll(cart(1))
    assert not world.poll().changed
    world.restart()
    assert not world.poll().changed
    world.etag = 'W/"2"'
    assert world.poll(cart(1, 2)).modified == 1
    assert world.asked_with == [None, 'W/"1"', 'W/"1"', 'W/"1"']


def test_a_cart_written_differently_is_read_once_and_makes_no_event(world: World) -> None:
    world.poll(cart(1), cart(2))
    raw = world.state()["carts"][0]["raw"]
    assert world.poll(cart(1, __v=5), cart(2)) == PollResult(changed=True, carts=2)
    assert raw not in {line["raw"] for line in world.state()["carts"]}


def test_a_mass_loss_is_held_while_additions_and_changes_are_applied(world: World) -> None:
    world.poll(*(cart(each) for each in range(1, 8)))
    result = world.poll(cart(1), cart(2, 5), cart(3), cart(9))
    assert result == PollResult(changed=True, carts=8, created=1, modified=1, held=4)


def test_a_loss_that_stays_for_three_polls_is_applied_even_across_restarts(world: World) -> None:
    world.etag = 'W/"a"'
    world.poll(*(cart(each) for each in range(1, 8)))
    world.etag = 'W/"b"'
    left = [cart(each) for each in (1, 2, 3)]
    held = []
    for _ in range(2):
        world.restart()
        held.append(world.poll(*left).held)
    assert held == [4, 4]
    # the same answer again is not skipped by its ETag or its bytes while it has to be agreed on
    assert world.asked_with[-1] is None
    world.restart()
    assert world.poll(*left) == PollResult(changed=True, carts=3, deleted=4)


def test_a_bad_record_keeps_its_cart_as_it_was(world: World) -> None:
    good = [cart(each) for each in range(2, 30)]
    world.poll(cart(1), *good)
    bad = cart(1, userId="nobody", password="secret")
    assert world.poll(bad, *good) == PollResult(changed=True, carts=29, quarantined=1)
    (line,) = (world.folder / "events" / "quarantine" / "2026-11-22.jsonl").read_text().splitlines()
    assert json.loads(line)["record"] == cart(1, userId="nobody")
    assert "userId" in json.loads(line)["reason"]
    # the same bad record is kept once, and a good one is simply taken
    world.poll(bad, cart(99), *good)
    assert world.poll(cart(1, 7), cart(99), *good).modified == 1
    assert len(list(read_lines(world.folder / "events" / "quarantine" / "2026-11-22.jsonl"))) == 1


def test_a_date_far_from_the_time_of_the_answer_keeps_its_cart_as_it_was(world: World) -> None:
    good = [cart(each) for each in range(2, 5)]
    world.poll(cart(1), *good)
    ahead = cart(1, date="2037-01-01T00:00:00.000Z")
    assert world.poll(ahead, *good) == PollResult(changed=True, carts=4, quarantined=1)


def test_a_quarantined_record_is_one_line_whatever_it_looks_like(world: World) -> None:
    pretty = json.dumps(cart(1, userId=None), indent=2).encode()
    world.events.store.quarantine([(pretty, "one"), (b'{"id": 2, "x": "\xff\\ud83d"}', "two")])
    (file,) = (world.folder / "events" / "quarantine").glob("*.jsonl")
    one, two = (json.loads(line) for line in read_lines(file))
    assert one["record"] == cart(1, userId=None)
    assert two["record"].startswith('{"id": 2')


def test_the_state_is_json_with_a_cart_a_line(world: World) -> None:
    world.poll(cart(1), cart(2))
    state = world.state()
    assert state["format"] == 2
    assert state["cart_count"] == len(state["carts"]) == 2
    assert state["carts"][0]["cart"] == {
        "id": 1,
        "userId": 1,
        "date": "2020-03-02T00:00:00.000Z",
        "products": [{"productId": 1, "quantity": 1}],
    }
    assert len(world.state_file.read_text().splitlines()) == 6


def test_a_large_state_is_read_in_blocks_without_loss(world: World) -> None:
    world.poll(*(cart(each) for each in range(13_000)))
    assert world.state_file.stat().st_size > 3 << 20
    assert sorted(read_index(world.state_file).values()) == list(range(13_000))
    answer = [cart(each, 1 + (each % 1000 == 0)) for each in range(1, 13_001)]
    assert world.poll(*answer) == PollResult(True, 13_000, created=1, modified=12, deleted=1)
    assert load_header(world.state_file) is not None
    assert [line["cart"]["id"] for line in world.state()["carts"]].count(5000) == 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: b"", "does not begin"),
        (lambda text: b"garbage", "does not begin"),
        (lambda text: b"{}", "does not begin"),
        (lambda text: b"[1, 2]", "does not begin"),
        (lambda text: b"null", "does not begin"),
        (lambda text: text[: len(text) // 2], "checksum"),
        (lambda text: text[:-1], "checksum"),
        (lambda text: text + b"\n", "checksum"),
        (lambda text: text.replace(b'"quantity":1', b'"quantity":2', 1), "checksum"),
        (lambda text: text.replace(b'"format":2', b'"format":3', 1), "format 3"),
        (lambda text: b'{"format": 7, "anything": {}}', "format 7"),
        (lambda text: json.dumps(json.loads(text), indent=1).encode(), "does not begin|checksum"),
    ],
)
def test_a_corrupt_or_newer_state_is_never_a_cold_start(
    world: World, damage: Callable[[bytes], bytes], reason: str
) -> None:
    world.poll(cart(1), cart(2))
    damaged = damage(world.state_file.read_bytes())
    world.state_file.write_bytes(damaged)
    with pytest.raises(CorruptStateError, match=reason):
        load_header(world.state_file)
    with pytest.raises(StateError, match=r"carts_state\.json cannot be used"):
        world.restart()
    assert world.state_file.read_bytes() == damaged


def test_a_state_cut_at_any_byte_is_corrupt(world: World) -> None:
    world.poll(cart(1))
    whole = world.state_file.read_bytes()
    for size in range(len(whole)):
        world.state_file.write_bytes(whole[:size])
        with pytest.raises(CorruptStateError):
            load_header(world.state_file)


def test_two_changes_of_a_cart_during_an_outage_are_two_events_in_order(world: World) -> None:
    world.poll(cart(1))
    world.publish()
    for quantity in (2, 3):
        world.poll(cart(1, quantity))
        assert world.publish(all_down).stopped_by is StopReason.UNREACHABLE
    world.restart()
    assert world.events.outbox.waiting() == 2
    assert [event["sequence"] for event in world.new_events()] == ["0000000002", "0000000003"]
    assert world.events.outbox.waiting() == 0


def test_what_has_left_of_a_batch_is_not_sent_again_after_a_kill(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "ROUND_EVENTS", 2)
    world.poll(*(cart(each) for each in range(1, 6)))
    rounds = iter([world.take_all, all_down])
    world.publish(lambda events, _: next(rounds)(events))
    assert len(world.sent) == 2
    world.restart()
    assert world.events.outbox.waiting() == 3
    world.publish()
    assert [json.loads(line)["subject"] for line in world.sent] == [
        f"cart_{i}" for i in range(1, 6)
    ]
    assert published(world.folder) == world.sent


def test_a_torn_line_of_the_event_store_is_sent_again_and_repaired(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.poll(cart(1), cart(2))

    def die(*_: object) -> None:
        raise SystemExit

    # after what has left was noted, and before the checkpoint
    monkeypatch.setattr(world.events.checkpoint, "advance", die)
    with pytest.raises(SystemExit):
        world.publish()
    (store,) = (world.folder / "events" / "published").glob("*.jsonl")
    store.write_bytes(store.read_bytes()[:-20])
    world.restart()
    world.publish()
    assert [json.loads(line)["subject"] for line in world.sent] == ["cart_1", "cart_2", "cart_2"]
    assert [json.loads(line)["subject"] for line in published(world.folder)] == ["cart_1", "cart_2"]


def test_a_batch_that_was_in_no_state_is_taken_from_the_outbox(world: World) -> None:
    """The source has changed on: what the killed poll saw is decided by the outbox alone."""
    world.poll(cart(1), cart(2))
    old = world.state_file.read_bytes()
    world.poll(cart(1, 2), cart(3))
    world.state_file.write_bytes(old)
    world.restart()
    world.poll(cart(1, 2), cart(2, 2))
    events = world.new_events()
    assert [(event["subject"], event["sequence"]) for event in events] == [
        *(("cart_1", "0000000001"), ("cart_2", "0000000001")),
        *(("cart_1", "0000000002"), ("cart_2", "0000000002"), ("cart_3", "0000000001")),
        *(("cart_2", "0000000003"), ("cart_3", "0000000002")),
    ]


def test_a_damaged_batch_that_was_in_no_state_has_not_happened(world: World) -> None:
    world.poll(cart(1))
    old = world.state_file.read_bytes()
    world.poll(cart(1, 2), cart(2))
    world.state_file.write_bytes(old)
    cut_last_line(outbox(world.folder)[-1])
    world.restart()
    assert world.poll().created == 1
    assert fold(map(json.dumps, world.new_events())) == {
        each: signature_of(cart(each, 3 - each)) for each in (1, 2)
    }


def test_a_damaged_batch_that_the_state_knows_stops_the_totals(world: World) -> None:
    world.poll(cart(1), cart(2))
    cut_last_line(outbox(world.folder)[-1])
    with pytest.raises(DamagedBatchError, match="1 of 2 events"):
        world.publish()
    with pytest.raises(DamagedBatchError, match="1 of 2 events"):
        world.restart()


def test_a_batch_that_an_older_version_left_has_no_checksum_and_leaves(world: World) -> None:
    world.poll(cart(1), cart(2))
    (batch,) = outbox(world.folder)
    lines = batch.read_bytes().splitlines(keepends=True)
    assert lines[-1].startswith(b'{"checksum":')
    batch.write_bytes(b"".join(lines[:-1]))
    world.restart()
    assert world.publish().published == 2


def test_an_old_copy_of_the_state_is_noticed_by_what_waits(world: World) -> None:
    world.poll(cart(1))
    old = world.state_file.read_bytes()
    world.poll(cart(1, 2))
    world.publish()
    world.poll(cart(1, 3))
    world.state_file.write_bytes(old)
    with pytest.raises(StateError, match="old copy"):
        world.restart()


def test_a_lost_state_publishes_what_waits_and_begins_a_new_generation(world: World) -> None:
    world.poll(cart(1), cart(2), cart(3))
    world.poll(cart(1, 2), cart(2), cart(3))
    world.publish()
    world.poll(cart(1, 3), cart(2), cart(3))
    first = world.state()["generation"]
    world.state_file.unlink()
    world.restart()
    world.poll(cart(1), cart(3), cart(4))
    events = world.new_events()
    assert [(event["generation"] == first, event["subject"]) for event in events] == [
        *((True, "cart_1"), (False, "cart_1"), (False, "cart_3"), (False, "cart_4")),
    ]
    assert first < world.state()["generation"]
    assert fold(published(world.folder)) == {each: signature_of(cart(each)) for each in (1, 3, 4)}


@pytest.mark.parametrize("has_left", [True, False])
def test_a_state_that_goes_while_the_loop_runs_costs_no_wrong_figure(
    world: World, has_left: bool
) -> None:
    """It is made again from the outbox, or a new generation begins where the first batch left."""
    world.etag = 'W/"1"'
    world.poll(cart(1), cart(2))
    if has_left:
        world.publish()
    world.etag = 'W/"2"'
    world.poll(cart(1, 2), cart(2))
    first = world.state()["generation"]
    world.state_file.unlink()
    # no ETag is sent: it was the lost state's
    result = world.poll(cart(1), cart(3))
    assert world.asked_with[-1] is None
    if has_left:
        assert result == PollResult(changed=True, carts=2, created=2)
        assert first < world.state()["generation"]
    else:
        assert result == PollResult(changed=True, carts=2, created=1, modified=1, deleted=1)
        assert first == world.state()["generation"]
    world.publish()
    assert fold(published(world.folder)) == {each: signature_of(cart(each)) for each in (1, 3)}


def test_a_state_that_is_replaced_in_the_middle_of_a_poll_is_not_written_over(
    world: World,
) -> None:
    world.poll(cart(1), cart(2))
    old = world.state_file.read_bytes()
    world.poll(cart(1), cart(2), cart(3))
    world.while_asked = lambda: world.state_file.write_bytes(old)
    with pytest.raises(TouchedStateError, match="touched during the poll"):
        world.poll(cart(1, 2), cart(2), cart(3))
    assert world.state_file.read_bytes() == old


def test_an_old_copy_put_back_while_the_loop_runs_is_noticed(world: World) -> None:
    world.poll(cart(1))
    old = world.state_file.read_bytes()
    world.poll(cart(1, 2))
    world.publish()
    world.state_file.write_bytes(old)
    with pytest.raises(StateError, match="old copy"):
        world.poll(cart(1, 3))


def test_a_refused_event_becomes_a_dead_letter_and_lets_the_others_pass(world: World) -> None:
    world.poll(cart(1), cart(2))
    world.poll(cart(1, 2), cart(2))
    totals = world.publish(reject_sequence("cart_1", "0000000001"))
    assert (totals.published, totals.rejected, totals.stopped_by) == (2, 1, None)
    (letter,) = dead_letters(world)
    assert letter["event"]["sequence"] == "0000000001"
    assert letter["reason"] == "INVALID_ARGUMENT: no"
    assert letter["failed_at"] == "2026-11-22T10:02:00.000000Z"


def test_replayed_dead_letters_leave_in_order_and_are_dead_no_more(world: World) -> None:
    world.poll(cart(1), cart(2))
    world.poll(cart(1, 2), cart(2))
    world.publish(lambda events, _: RoundResult([], [Rejection(event, "no") for event in events]))
    assert len(dead_letters(world)) == 3
    totals = world.replay(reject_sequence("cart_2", "0000000001"))
    assert (totals.published, totals.rejected) == (2, 1)
    assert [letter["event"]["subject"] for letter in dead_letters(world)] == ["cart_2"]
    assert [json.loads(line)["sequence"] for line in published(world.folder)] == [
        "0000000001",
        "0000000002",
    ]
    assert world.replay().published == 1
    assert dead_letters(world) == []


def test_a_replay_that_was_killed_before_it_forgot_does_not_send_again(world: World) -> None:
    world.poll(cart(1))
    world.publish(lambda events, _: RoundResult([], [Rejection(event, "no") for event in events]))
    (file,) = (world.folder / "events" / "dead_letter").glob("*.jsonl")
    letters = file.read_bytes()
    world.replay()
    file.write_bytes(letters)
    assert world.replay().published == 0
    assert dead_letters(world) == []


def test_a_dead_letter_that_an_editor_left_without_its_newline_is_replayed(world: World) -> None:
    world.poll(cart(1), cart(2))
    world.publish(lambda events, _: RoundResult([], [Rejection(event, "no") for event in events]))
    (file,) = (world.folder / "events" / "dead_letter").glob("*.jsonl")
    file.write_bytes(file.read_bytes().removesuffix(b"\n"))
    assert world.replay().published == 2


def test_a_replay_with_pubsub_down_keeps_the_dead_letters(world: World) -> None:
    world.poll(cart(1), cart(2))
    world.publish(lambda events, _: RoundResult([], [Rejection(event, "no") for event in events]))
    assert world.replay(all_down).stopped_by is StopReason.UNREACHABLE
    assert len(dead_letters(world)) == 2


def reject_sequence(subject: str, sequence: str) -> PublishRound:
    def publish_round(events: Sequence[bytes], deadline: float | None) -> RoundResult:
        rejected = [
            event
            for event in events
            if (json.loads(event)["subject"], json.loads(event)["sequence"]) == (subject, sequence)
        ]
        taken = [event for event in events if event not in rejected]
        return RoundResult(taken, [Rejection(event, "INVALID_ARGUMENT: no") for event in rejected])

    return publish_round


def dead_letters(world: World) -> list[Document]:
    paths = sorted((world.folder / "events" / "dead_letter").glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in read_lines(path)]


def cut_last_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
