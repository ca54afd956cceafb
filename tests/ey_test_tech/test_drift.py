"""The carts against the shop's own snapshots: what was lost by hand is found, and nothing else is.

Days pass, each with a snapshot of the shop's carts by a batch run. First only what explains itself
happens; then events do not arrive; then what had arrived is tampered with, and a second snapshot
shows all of it; and the repair that the build names ends it.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from tests.support.cart_deliveries import batch_run, cart, delivery
from tests.support.dbt_warehouse import DbtError, Row, Warehouse, today

pytest_plugins = ["tests.support.dbt_fixtures"]
# the first test waits for five dbt runs
pytestmark = pytest.mark.timeout(1200)

Rows = Iterator[tuple[str, Row]]
VERIFICATION = (
    *("build", "--select", "+cart_drift", "stg_cart_days", "cart_verification"),
    *("--exclude-resource-type", "unit_test"),
)
MIDNIGHT = dt.datetime.combine(today(), dt.time(0), dt.UTC)


def days_ago(days: int) -> dt.datetime:
    """Return the first moment of a day; 0 is today."""
    return MIDNIGHT - dt.timedelta(days=days)


# a third of the carts, and more, deleted at once
GONE = (5, 6, 7)
FIRST = {number: cart(number, (number, 1)) for number in range(1, 9)}
BEFORE = FIRST | {
    1: cart(1, (1, 2)),
    7: cart(7, (7, 9)),
    9: cart(9, (9, 1)),
    10: cart(10, (1, 1)),
}
# what the shop has after changes of which no event arrives; 1 and 9 are tampered with in bronze
AFTER = {number: kept for number, kept in BEFORE.items() if number not in (3, *GONE)} | {
    2: cart(2, (2, 5)),
    4: cart(4, (4, 5)),
    11: cart(11, (1, 1)),
}
LOST = {
    1: "different",  # its event was edited
    2: "different",  # its change is a dead letter
    3: "extra",  # its deletion is one
    4: "different",  # the poller stood still for two days
    5: "extra",
    6: "extra",
    7: "extra",
    9: "missing",  # its event was removed from bronze
    11: "missing",
}
EDITED = delivery("modified", 1, 2, days_ago(9), after=BEFORE[1], before=FIRST[1])
REMOVED = delivery("created", 9, 1, days_ago(8), after=BEFORE[9])


def snapshot(days: int, *shops: dict[int, Row], without: tuple[int, ...] = ()) -> Rows:
    """Yield the batch run of a day; of several shops the later one's carts count."""
    carts = {number: each for shop in shops for number, each in shop.items()}
    return batch_run(
        "carts", days_ago(days), [each for n, each in carts.items() if n not in without]
    )


def explained() -> Rows:
    """Yield two snapshots that differ from gold, with a reason for each difference."""
    for number, after in FIRST.items():
        yield delivery("created", number, 1, days_ago(10), after=after, size=len(FIRST))
    yield from (EDITED, REMOVED)
    yield delivery("created", 12, 1, days_ago(8), after=cart(12))
    # silver does not believe them
    bad = {8: cart(8, (8, 0)), 13: cart(13, (1, -5))}
    yield delivery("modified", 8, 2, days_ago(6), after=bad[8], before=FIRST[8])
    yield delivery("created", 13, 1, days_ago(6), after=bad[13])
    # what changes just after a snapshot is seen by the next poll
    yield from snapshot(5, BEFORE, bad, {7: FIRST[7], 12: cart(12)}, without=(10,))
    seen_at = days_ago(5) + dt.timedelta(minutes=1)
    yield delivery("modified", 7, 2, seen_at, after=BEFORE[7], before=FIRST[7])
    yield delivery("created", 10, 1, seen_at, after=BEFORE[10])
    yield delivery("deleted", 12, 2, seen_at, before=cart(12))
    # a deletion that is held, and then taken back
    yield from snapshot(4, BEFORE, bad, without=(3, *GONE))


def repair() -> Rows:
    """Yield what --new-snapshot publishes, and the next snapshot of the shop."""
    at = days_ago(2) + dt.timedelta(hours=12)
    for number, after in AFTER.items():
        yield delivery("created", number, 1, at, after=after, generation="g2", size=len(AFTER))
    yield from snapshot(1, AFTER)


@dataclass
class Build:
    """What a build said of the newest two snapshots, and why it was red."""

    verification: list[Row]
    differences: dict[int, str]
    drifting: dict[int, str]
    error: str = ""


@dataclass
class Days:
    """The builds, in their order."""

    explained: Build
    lost: Build
    lost_still: Build
    repaired: Build
    refusal: str


def build(warehouse: Warehouse, *arguments: str) -> Build:
    """Build the verification; return what it says, of differences the newest snapshot's."""
    error = ""
    try:
        warehouse.dbt(*VERIFICATION, *arguments)
    except DbtError as red:
        error = str(red)
    drift = warehouse.table("silver_data.cart_drift")
    return Build(
        sorted(warehouse.table("gold_data.cart_verification"), key=lambda row: row["observed_at"]),
        {
            row["cart_id"]: row["difference"]
            for row in drift
            if row["is_newest"] and row["difference"] != "agrees" and not row["unsettled_reason"]
        },
        {row["cart_id"]: row["difference"] for row in drift if row["is_drift"]},
        error,
    )


@pytest.fixture(scope="module")
def days(make_warehouse: Callable[[str], Warehouse]) -> Days:
    """Let the days pass."""
    warehouse = make_warehouse("drift")
    warehouse.load_all(explained())
    first = build(warehouse)
    warehouse.load_all(snapshot(3, AFTER))
    second = build(warehouse)
    rows = "delete from bronze_data.carts_events_raw where message_id in ('{}', '{}')"
    warehouse.rows(rows.format(EDITED[1]["message_id"], REMOVED[1]["message_id"]))
    edited = delivery("modified", 1, 2, days_ago(9), after=cart(1, (1, 3)), before=FIRST[1])
    warehouse.load_all([edited, *snapshot(2, AFTER)])
    with pytest.raises(DbtError) as refusal:
        warehouse.dbt("run", "--select", "base_cart_events", "int_cart_history")
    third = build(warehouse, "--full-refresh")
    warehouse.load_all(repair())
    return Days(first, second, third, build(warehouse), str(refusal.value))


def test_what_explains_itself_is_no_drift(days: Days) -> None:
    assert days.explained.error == ""
    assert days.explained.differences == {}
    assert [row["unsettled"] for row in days.explained.verification] == [4, 5]
    assert [row["drifting"] for row in days.explained.verification] == [0, 0]


def test_rows_that_leave_bronze_are_refused_until_a_full_refresh(days: Days) -> None:
    assert "full-refresh" in days.refusal


def test_the_first_snapshot_that_differs_is_a_warning(days: Days) -> None:
    assert days.lost.error == ""
    assert days.lost.drifting == {}
    # so many deletions may be held as yet
    extra = (3, *GONE)
    assert days.lost.differences == {n: LOST[n] for n in (2, 4, 11)}
    assert days.lost.verification[-1]["unsettled"] == len(extra)
    assert not days.lost.verification[-1]["is_verified"]


def test_the_second_one_is_drift_that_names_its_repair(days: Days) -> None:
    assert "no_cart_drifts_else_poll_with_new_snapshot" in days.lost_still.error
    assert days.lost_still.drifting == LOST
    assert days.lost_still.verification[-1]["drifting"] == len(LOST)


def test_the_repair_ends_it(days: Days) -> None:
    assert days.repaired.error == ""
    assert days.repaired.drifting == {}
    newest = days.repaired.verification[-1]
    assert newest["is_verified"]
    assert newest["agreeing"] == newest["carts"] == len(AFTER)


# each cart is a history of its own: between two polls it may change, come and go
CROSSING_CARTS = 1000


def crossing(dice: random.Random) -> Rows:
    """Yield two snapshots, and events of polls up to 50 minutes apart, all at random moments."""
    first = days_ago(1) + dt.timedelta(minutes=dice.uniform(0, 300))
    second = first + dt.timedelta(minutes=dice.uniform(60, 300))
    polls = [days_ago(3)]
    while polls[-1] < second + dt.timedelta(minutes=dice.uniform(0, 60)):
        polls.append(polls[-1] + dt.timedelta(minutes=dice.uniform(1, 50)))
    answers: dict[dt.datetime, list[Row]] = {first: [], second: []}
    for number in range(1, CROSSING_CARTS + 1):
        near = [dice.choice((first, second)) for _ in range(dice.randrange(6))]
        moments = sorted(at + dt.timedelta(minutes=dice.uniform(-90, 90)) for at in near)
        states = [(days_ago(4), cart(number, (1, 1)) if dice.random() < 0.9 else None)]
        states += [
            (at, cart(number, (1, quantity)) if dice.random() < 0.8 else None)
            for quantity, at in enumerate(moments, 2)
        ]

        def state(
            at: dt.datetime, states: list[tuple[dt.datetime, Row | None]] = states
        ) -> Row | None:
            return [each for since, each in states if since <= at][-1]

        for at, records in answers.items():
            # an answer is older than its end, and younger than its beginning
            record = state(at + dt.timedelta(seconds=dice.uniform(0, 5)))
            records += [record] if record else []
        seen = [None, *(state(at - dt.timedelta(seconds=dice.uniform(0, 5))) for at in polls)]
        changes = [
            (at, *pair)
            for at, pair in zip(polls, pairwise(seen), strict=True)
            if pair[0] != pair[1]
        ]
        for sequence, (at, before, after) in enumerate(changes, 1):
            kind = "deleted" if not after else "modified" if before else "created"
            yield delivery(kind, number, sequence, at, after=after, before=before)
    for at, records in answers.items():
        yield from batch_run("carts", at, records)


def test_polls_in_flight_are_no_drift(make_warehouse: Callable[[str], Warehouse]) -> None:
    warehouse = make_warehouse("crossing")
    warehouse.load_all(crossing(random.Random(15)))
    warehouse.dbt("run", "--select", "+cart_drift")
    drift = warehouse.table("silver_data.cart_drift")
    assert [row for row in drift if row["is_drift"]] == []
    older = [row for row in drift if not row["is_newest"]]
    assert len({row["cart_id"] for row in older}) > CROSSING_CARTS / 2
    # what differs in the older one was seen since, in each way to differ
    assert {
        (row["difference"], row["unsettled_reason"])
        for row in older
        if row["difference"] != "agrees"
    } == {
        (difference, "a later poll saw the change")
        for difference in ("missing", "extra", "different")
    }
