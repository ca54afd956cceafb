"""A generation that begins is no way past the gate for mass deletions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ingestion.carts.publishing import Rejection, RoundResult
from ingestion.carts.superseding import carts_told_by
from ingestion.json_array import BadAnswer
from tests.support.cart_histories import (
    CartsSource,
    fold,
    outbox,
    published,
    run_here,
    signature_of,
)
from tests.support.cart_world import World, all_down, cart

SEVEN = [cart(each) for each in range(1, 8)]
LOCAL = ("--once", "--local-only")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.poll(*SEVEN)
    made.publish()
    return made


def reject_all(events: Sequence[bytes], deadline: float | None) -> RoundResult:
    return RoundResult([], [Rejection(event, "no") for event in events])


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*.json*") if path.is_file()}


def test_a_new_snapshot_that_lacks_what_a_poll_would_hold_is_refused(world: World) -> None:
    world.restart(is_new_snapshot=True)
    before = files(world.folder)
    with pytest.raises(BadAnswer, match=r"lacks 5 of the 7 carts .* --accept-deletes"):
        world.poll(*SEVEN[5:])
    assert files(world.folder) == before
    assert world.poll(*SEVEN[1:]).created == 6
    world.publish()
    assert fold(published(world.folder)) == {each["id"]: signature_of(each) for each in SEVEN[1:]}


def test_a_new_snapshot_does_not_end_a_cart_that_cannot_be_read(world: World) -> None:
    """Where it cannot say of the cart what it is, it would say that there is none."""
    world.restart(is_new_snapshot=True)
    before = files(world.folder)
    unreadable = {**cart(1), "userId": "one"}
    with pytest.raises(BadAnswer, match=r"1 of the 7 carts .* cannot be read .* --accept-deletes"):
        world.poll(unreadable, *SEVEN[1:])
    assert files(world.folder) == before
    # one that nobody has known before is set aside as always
    never_read = {**cart(8), "userId": "one"}
    assert world.poll(*SEVEN, never_read)[2:] == (7, 0, 0, 0, 1)


@pytest.mark.parametrize("content", [None, b"damaged"])
@pytest.mark.parametrize("lies_in", ["published", "outbox", "dead_letter"])
def test_without_a_state_the_events_tell_how_many_carts_there_were(
    tmp_path: Path, content: bytes | None, lies_in: str
) -> None:
    world = World(tmp_path)
    world.poll(*SEVEN)
    world.publish(reject_all if lies_in == "dead_letter" else None)
    world.poll(*SEVEN[1:], cart(8))
    world.publish(all_down if lies_in == "outbox" else None)
    world.state_file.unlink()
    if content is not None:
        world.state_file.write_bytes(content)
    world.restart(is_new_snapshot=content is not None)
    with pytest.raises(BadAnswer, match="lacks 6 of the 7 carts"):
        world.poll(cart(1), cart(8))
    assert world.poll(*SEVEN[1:]).created == 6


def test_where_the_event_store_lacks_a_part_of_the_snapshot_nothing_tells(world: World) -> None:
    (day,) = (world.folder / "events" / "published").glob("*.jsonl")
    day.write_bytes(b"\n".join(day.read_bytes().split(b"\n")[1:]))
    world.state_file.unlink()
    world.restart()
    assert world.poll(*SEVEN[5:]).created == 2


def test_another_source_is_no_smaller_one(world: World) -> None:
    world.source = "http://other/carts"
    world.restart(is_new_snapshot=True)
    assert world.poll(*SEVEN[5:]).created == 2


def test_a_loss_that_a_poll_would_not_hold_is_superseded(world: World) -> None:
    world.restart(is_new_snapshot=True)
    assert world.poll(*SEVEN[2:]).created == 5


def test_events_tell_what_they_add_up_to_in_any_order_and_more_than_once(world: World) -> None:
    world.poll(*SEVEN[2:], cart(8))
    world.poll(*SEVEN[1:])
    world.publish()
    events = published(world.folder)
    told = carts_told_by([*reversed(events), *events, b"damaged"], world.source)
    assert told
    assert (told.count, told.cart_ids) == (6, {2, 3, 4, 5, 6, 7})
    assert carts_told_by(events, "http://other/carts") is None
    assert carts_told_by([], world.source) is None


def test_the_stage_refuses_in_one_sentence_what_it_then_accepts(
    tmp_path: Path, source: CartsSource
) -> None:
    run_here(tmp_path, source.url, *LOCAL)
    for cart_id in (1, 2, 3):
        del source.carts[cart_id]
    before = files(tmp_path)
    refused = run_here(tmp_path, source.url, *LOCAL, "--new-snapshot")
    assert refused.code == 1
    assert "lacks 3 of the 5 carts that were known, and a new snapshot would" in refused.log
    assert (files(tmp_path), outbox(tmp_path)) == (before, [])
    accepted = run_here(tmp_path, source.url, *LOCAL, "--new-snapshot", "--accept-deletes")
    assert (accepted.code, accepted.summary["created"]) == (0, 2)
    assert fold(published(tmp_path)) == source.signatures()
