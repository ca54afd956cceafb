"""The pure half of the near-real-time stage: changes, events, ids, the gate on deletions."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import jsonschema
import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from ingestion.carts.changes import (
    CREATED,
    DELETED,
    MODIFIED,
    Cart,
    CartLine,
    Event,
    HeldDeletions,
    PollContext,
    detect_changes,
    gate_deletions,
    make_event,
    signature,
    signatures,
)

POLL = PollContext(
    source="https://fakestoreapi.com/carts",
    generation="20261122T101500123Z-9f2c41aa",
    observed_after="2026-11-22T10:14:00.000000Z",
    observed_before="2026-11-22T10:15:00.000000Z",
    snapshot_size=None,
)

# what the CloudEvents 1.0 JSON format asks of a document, and our contract on top of it
CLOUDEVENT_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "propertyNames": {"pattern": "^[a-z0-9]+$"},
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "source": {"type": "string", "format": "uri-reference", "minLength": 1},
        "type": {"pattern": r"^com\.fakestoreapi\.cart_(created|modified|deleted)$"},
        "subject": {"type": "string", "pattern": "^cart_-?[0-9]+$"},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"const": "application/json"},
        "partitionkey": {"type": "string", "minLength": 1},
        "generation": {"type": "string", "pattern": "^[0-9]{8}T[0-9]{9}Z-[0-9a-f]{8}$"},
        "sequence": {"type": "string", "pattern": "^[0-9]{10}$"},
        "data": {
            "type": "object",
            "required": ["cart_id", "before", "after", "observed_after", "observed_before"],
            "properties": {
                "cart_id": {"type": "integer"},
                "before": {"$ref": "#/$defs/cart"},
                "after": {"$ref": "#/$defs/cart"},
                "snapshot": {"type": "object", "required": ["size"]},
                "observed_after": {"type": ["string", "null"], "format": "date-time"},
                "observed_before": {"type": "string", "format": "date-time"},
            },
            "additionalProperties": False,
        },
    },
    "$defs": {
        "cart": {
            "type": ["object", "null"],
            "required": ["id", "userId", "date", "products"],
            "additionalProperties": False,
            "properties": {
                "id": {"type": "integer"},
                "userId": {"type": "integer"},
                "date": {"type": "string"},
                "products": {
                    "type": "array",
                    "items": {"type": "object", "required": ["productId", "quantity"]},
                },
            },
        }
    },
}


def cart(cart_id: int, *lines: tuple[int, int], user: int = 1, date: str = "2020-03-02") -> Cart:
    if len(date) == len("2020-03-02"):
        date += "T00:00:00.000Z"
    return Cart(cart_id, user, date, tuple(CartLine(*line) for line in lines))


def snapshot(*carts: Cart) -> dict[int, Cart]:
    return {each.id: each for each in carts}


def kinds(before: dict[int, Cart], after: dict[int, Cart]) -> list[tuple[str, int]]:
    return [(change.type, change.cart_id) for change in detect_changes(before, after)]


product_lines = st.lists(st.builds(CartLine, st.integers(1, 3), st.integers(1, 2)), max_size=3).map(
    tuple
)
dates = st.sampled_from(
    ["2020-03-02T00:00:00.000Z", "2020-03-02T01:00:00+01:00", "2020-03-02", "2020-03-03T00:00:00Z"]
)


def carts_with_id(cart_id: int) -> st.SearchStrategy[Cart]:
    return st.builds(Cart, st.just(cart_id), st.integers(1, 2), dates, product_lines)


snapshots = st.sets(st.integers(1, 6)).flatmap(
    lambda ids: st.fixed_dictionaries({each: carts_with_id(each) for each in sorted(ids)})
)


def test_a_cold_start_is_everything_created_in_cart_id_order() -> None:
    assert kinds({}, snapshot(cart(10), cart(2), cart(1))) == [
        (CREATED, 1),
        (CREATED, 2),
        (CREATED, 10),
    ]


def test_created_modified_and_deleted_are_told_apart() -> None:
    before = snapshot(cart(1, (1, 1)), cart(2, (1, 1)), cart(3, (1, 1)))
    after = snapshot(cart(0, (1, 1)), cart(2, (1, 1)), cart(3, (1, 2)))
    assert kinds(before, after) == [(CREATED, 0), (DELETED, 1), (MODIFIED, 3)]
    assert [(change.before, change.after) for change in detect_changes(before, after)] == [
        (None, after[0]),
        (before[1], None),
        (before[3], after[3]),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        cart(1, (1, 1), (2, 2), user=2),
        cart(1, (1, 1), (2, 2), date="2020-03-03"),
        cart(1, (1, 1), (2, 3)),
        cart(1, (1, 1)),
        cart(1, (1, 1), (2, 2), (2, 2)),
        cart(1, (1, 2), (2, 1)),
    ],
    ids=["user", "date", "quantity", "line gone", "line twice", "quantities swapped"],
)
def test_each_part_of_a_cart_counts(changed: Cart) -> None:
    assert kinds(snapshot(cart(1, (1, 1), (2, 2))), snapshot(changed)) == [(MODIFIED, 1)]


def test_the_same_product_on_two_lines_is_not_one_line_with_the_sum() -> None:
    assert kinds(snapshot(cart(1, (5, 1), (5, 1))), snapshot(cart(1, (5, 2)))) == [(MODIFIED, 1)]


@pytest.mark.parametrize(
    "rewritten",
    [
        cart(1, (2, 2), (1, 1)),
        cart(1, (1, 1), (2, 2), date="2020-03-02T00:00:00Z"),
        cart(1, (1, 1), (2, 2), date="2020-03-02T01:30:00+01:30"),
    ],
    ids=["order of lines", "date without milliseconds", "date in another zone"],
)
def test_what_is_only_written_differently_is_no_change(rewritten: Cart) -> None:
    assert kinds(snapshot(cart(1, (1, 1), (2, 2))), snapshot(rewritten)) == []


@pytest.mark.parametrize("other", ["2020-03-03T00:00:00.000Z", "2020-03-03"])
def test_a_signature_is_the_hash_of_the_instant_and_the_sorted_lines(other: str) -> None:
    """States and event ids of before depend on it, whatever dates stand beside a cart's."""
    one = cart(1, (2, 1), (1, 9), (1, 3), user=5, date="2020-03-02T00:00:00.001Z")
    canonical = ["[1,5,1583107200001000,[[1,3],[1,9],[2,1]]]", "[2,1,1583193600000000,[]]"]
    assert signatures([one, Cart(2, 1, other, ())]) == [
        hashlib.sha256(each.encode()).digest() for each in canonical
    ]


@given(snapshots, snapshots)
def test_applying_the_changes_to_the_old_snapshot_gives_the_new_one(
    before: dict[int, Cart], after: dict[int, Cart]
) -> None:
    folded = dict(before)
    for change in detect_changes(before, after):
        folded.pop(change.cart_id, None)
        if change.after:
            folded[change.cart_id] = change.after
    assert {each: signature(folded[each]) for each in folded} == {
        each: signature(after[each]) for each in after
    }


@given(snapshots)
def test_no_change_gives_no_event(before: dict[int, Cart]) -> None:
    turned = {
        each: msgspec.structs.replace(old, products=old.products[::-1])
        for each, old in reversed(before.items())
    }
    assert kinds(before, turned) == []


def events_of(history: list[dict[int, Cart]]) -> list[Event]:
    """Fold a history as the stage does: sequences go on where a deleted cart had left off."""
    sequences: dict[int, str] = {}
    events = []
    for before, after in zip([{}, *history], history, strict=False):
        for change in detect_changes(before, after):
            event = make_event(change, sequences.get(change.cart_id), POLL)
            sequences[change.cart_id] = event.sequence
            events.append(event)
    return events


@given(st.lists(snapshots, min_size=2, max_size=8))
def test_ids_are_equal_for_the_same_transition_and_for_no_other(
    history: list[dict[int, Cart]],
) -> None:
    there_and_back = history + history[::-1] + history
    events = events_of(there_and_back)
    assert [event.id for event in events_of(there_and_back)] == [event.id for event in events]
    assert len({event.id for event in events}) == len(events)
    for cart_id in {event.data.cart_id for event in events}:
        numbers = [int(event.sequence) for event in events if event.data.cart_id == cart_id]
        assert numbers == list(range(1, len(numbers) + 1))


def test_changing_back_and_forth_and_creating_again_are_different_events() -> None:
    a, b = snapshot(cart(1, (1, 1))), snapshot(cart(1, (1, 2)))
    events = events_of([a, b, a, b, {}, b, {}, b])
    assert [event.type.rpartition("_")[2] for event in events] == [
        *("created", "modified", "modified", "modified"),
        *("deleted", "created", "deleted", "created"),
    ]
    assert len({event.id for event in events}) == 8


@pytest.mark.parametrize("other", [{"source": "https://other/carts"}, {"generation": "later"}])
def test_the_same_transition_elsewhere_or_in_another_generation_has_another_id(
    other: dict[str, str],
) -> None:
    (change,) = detect_changes({}, snapshot(cart(1)))
    assert make_event(change, None, POLL).id != make_event(change, None, POLL._replace(**other)).id


def test_an_event_is_the_document_of_the_contract() -> None:
    (change,) = detect_changes({}, snapshot(cart(1, (1, 4))))
    event = make_event(change, None, POLL._replace(observed_after=None, snapshot_size=7))
    assert json.loads(msgspec.json.encode(event)) == {
        "specversion": "1.0",
        "id": "e379e61952aaee5badd893ecf75b30569f98482e7258755d394396c12c49103d",
        "source": "https://fakestoreapi.com/carts",
        "subject": "cart_1",
        "type": "com.fakestoreapi.cart_created",
        "time": "2026-11-22T10:15:00.000000Z",
        "datacontenttype": "application/json",
        "partitionkey": "cart_1",
        "generation": "20261122T101500123Z-9f2c41aa",
        "sequence": "0000000001",
        "data": {
            "cart_id": 1,
            "before": None,
            "after": {
                "id": 1,
                "userId": 1,
                "date": "2020-03-02T00:00:00.000Z",
                "products": [{"productId": 1, "quantity": 4}],
            },
            "snapshot": {"size": 7},
            "observed_after": None,
            "observed_before": "2026-11-22T10:15:00.000000Z",
        },
    }


@given(st.lists(snapshots, min_size=2, max_size=4), st.one_of(st.none(), st.integers(1, 9)))
def test_every_event_is_a_valid_cloudevent(
    history: list[dict[int, Cart]], size: int | None
) -> None:
    validator = jsonschema.Draft202012Validator(
        CLOUDEVENT_SCHEMA, format_checker=jsonschema.FormatChecker()
    )
    poll = POLL._replace(snapshot_size=size)
    for before, after in pairwise(history):
        for change in detect_changes(before, after):
            document = msgspec.json.encode(make_event(change, None, poll))
            validator.validate(json.loads(document))
            read_back = JSONFormat().read(None, document)
            assert read_back.get_extension("sequence") == "0000000001"
            assert read_back.get_data()["cart_id"] == change.cart_id


NOTHING_HELD = HeldDeletions()


NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def gate(
    missing: set[int],
    known: int = 7,
    held: HeldDeletions = NOTHING_HELD,
    accept: bool = False,
    seconds: float = 180,
) -> tuple[set[int], HeldDeletions]:
    """Poll `seconds` after noon, at which the first poll came, with an interval of a minute."""
    moment = NOON + timedelta(seconds=seconds if held.polls else 0)
    deleted, held = gate_deletions(
        frozenset(missing), known, held, moment=moment, poll_interval=60, accept=accept
    )
    return set(deleted), held


def held_since_noon(polls: int, *cart_ids: int) -> HeldDeletions:
    return HeldDeletions(polls, cart_ids, NOON)


def test_one_or_two_deletions_pass_however_few_carts_there_are() -> None:
    assert gate({1}) == ({1}, HeldDeletions())
    assert gate({1, 2}, known=2) == ({1, 2}, HeldDeletions())


def test_a_loss_of_thirty_percent_passes_and_one_more_is_held() -> None:
    assert gate({1, 2, 3}, known=10) == ({1, 2, 3}, HeldDeletions())
    assert gate({1, 2, 3, 4}, known=10) == (set(), held_since_noon(1, 1, 2, 3, 4))


def test_the_third_poll_in_a_row_that_agrees_deletes() -> None:
    lost = {1, 2, 3, 4}
    _, held = gate(lost)
    nothing, held = gate(lost, held=held)
    assert (nothing, held) == (set(), held_since_noon(2, 1, 2, 3, 4))
    assert gate(lost, held=held) == (lost, HeldDeletions())


def test_a_recovery_in_between_begins_the_count_anew() -> None:
    _, held = gate({1, 2, 3, 4})
    _, held = gate({1, 2, 3, 4}, held=held)
    _, held = gate(set(), held=held)
    assert gate({1, 2, 3, 4}, held=held) == (set(), held_since_noon(1, 1, 2, 3, 4))


def test_only_carts_missing_in_all_three_polls_are_deleted() -> None:
    _, held = gate({1, 2, 3, 4, 5})
    _, held = gate({2, 3, 4, 5, 6}, held=held)
    assert gate({1, 2, 3, 4, 5}, held=held) == ({2, 3, 4, 5}, HeldDeletions())


def test_two_different_mass_losses_do_not_agree() -> None:
    _, held = gate({1, 2, 3})
    later = NOON + timedelta(seconds=180)
    assert gate({4, 5, 6}, held=held) == (set(), HeldDeletions(1, (4, 5, 6), later))


def test_quick_retries_do_not_confirm_each_other() -> None:
    """Three polls are not enough: three poll intervals have to pass as well."""
    lost = {1, 2, 3, 4}
    held = NOTHING_HELD
    for number in range(1, 6):
        nothing, held = gate(lost, held=held, seconds=number)
        assert (nothing, held) == (set(), held_since_noon(number, 1, 2, 3, 4))
    assert gate(lost, held=held, seconds=170)[0] == set()
    assert gate(lost, held=held, seconds=179) == (lost, HeldDeletions())


def test_a_clock_that_was_set_back_begins_to_count_the_time_anew() -> None:
    lost = {1, 2, 3, 4}
    held = held_since_noon(7, 1, 2, 3, 4)
    nothing, held = gate(lost, held=held, seconds=-86_400)
    assert (nothing, held.since) == (set(), NOON - timedelta(days=1))
    assert gate(lost, held=held, seconds=-86_220) == (lost, HeldDeletions())


def test_accept_deletes_passes_any_loss_at_once() -> None:
    assert gate({1, 2, 3, 4, 5, 6}, accept=True) == ({1, 2, 3, 4, 5, 6}, HeldDeletions())
