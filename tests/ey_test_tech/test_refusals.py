"""What people do to pollers and to bronze that would make gold wrong: the build is red and says it.

One warehouse, in which one thing after another happens; each is repaired before the next.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator

import pytest

from tests.support.cart_deliveries import batch_run, cart, delivery
from tests.support.dbt_warehouse import DbtError, Row, Warehouse

pytest_plugins = ["tests.support.dbt_fixtures"]
pytestmark = pytest.mark.timeout(1200)

CARTS = (
    *("build", "--select", "+stg_cart_generations", "stg_cart_days"),
    *("--exclude-resource-type", "unit_test"),
)
MISSING_OR_TWICE = "no_change_of_a_cart_is_missing_or_numbered_twice"
UNREAD = "silver_equals_bronze_or_needs_a_full_refresh"
LEFT = r"Rows have left bronze, and .* put them back"
NOW = dt.datetime.now(dt.UTC)
Rows = Iterator[tuple[str, Row]]


def ago(days: float = 0, **more: float) -> dt.datetime:
    """Return a moment of the past."""
    return NOW - dt.timedelta(days=days, **more)


def snapshot(generation: str, at: dt.datetime) -> Rows:
    """Yield a cold start that found the carts 1 and 2."""
    for number in (1, 2):
        after = cart(number, (1, 1))
        yield delivery("created", number, 1, at, after=after, generation=generation, size=2)


def change(
    sequence: int,
    generation: str,
    at: dt.datetime,
    published_at: dt.datetime | None = None,
    event_id: str | None = None,
) -> Rows:
    """Yield the event of a change of cart 1."""
    after, before = cart(1, (1, sequence)), cart(1, (1, sequence - 1))
    table, row = delivery(
        *("modified", 1, sequence, at),
        after=after,
        before=before,
        generation=generation,
        again_at=published_at,
    )
    row["data"]["id"] = event_id or row["data"]["id"]
    yield table, row


def put_aside(warehouse: Warehouse, at: dt.datetime) -> list[tuple[str, Row]]:
    """Take the rows of a day out of bronze; return them as they can be loaded again."""
    on_the_day = f"from bronze_data.carts_events_raw where date(publish_time) = '{at.date()}'"
    rows = warehouse.rows(f"select * {on_the_day}")
    warehouse.rows(f"delete {on_the_day}")
    return [
        ("carts_events_raw", row | {"publish_time": row["publish_time"].isoformat()})
        for row in rows
    ]


@pytest.fixture(scope="module")
def warehouse(make_warehouse: Callable[[str], Warehouse]) -> Warehouse:
    """A warehouse that two cold starts of one poller have reached."""
    made = make_warehouse("refusals")
    made.load_all([*snapshot("g1", ago(100)), *change(2, "g1", ago(99)), *snapshot("g2", ago(30))])
    made.dbt(*CARTS)
    return made


def refusals(warehouse: Warehouse, *command: str) -> set[str]:
    """Return the names of all that makes a build red."""
    with pytest.raises(DbtError) as refused:
        warehouse.dbt(*(command or CARTS))
    return {line.partition(":")[0] for line in str(refused.value).splitlines() if ": " in line}


def test_a_second_poller_that_polls_once_freezes_gold_and_is_told(warehouse: Warehouse) -> None:
    warehouse.load_all([*snapshot("g3", ago(25)), *change(2, "g2", ago(26))])
    warehouse.dbt(*CARTS)
    warehouse.load_all(change(3, "g2", ago(24)))
    assert refusals(warehouse) == {
        "one_poller_polls_else_stop_the_other_and_poll_with_new_snapshot"
    }
    warehouse.load_all(snapshot("g4", ago(20)))


def test_a_change_that_does_not_arrive_is_told_until_it_does(warehouse: Warehouse) -> None:
    warehouse.load_all(change(3, "g4", ago(5)))
    assert refusals(warehouse) == {MISSING_OR_TWICE}
    warehouse.load_all(change(2, "g4", ago(6), published_at=ago(4)))
    warehouse.dbt(*CARTS)


def test_a_number_that_is_given_again_weeks_later_is_told(warehouse: Warehouse) -> None:
    put_back = change(2, "g4", ago(2), event_id="of a state that was put back")
    warehouse.load_all(put_back)
    assert refusals(warehouse) == {MISSING_OR_TWICE}
    warehouse.load_all(snapshot("g5", ago(1, hours=9)))


def test_a_change_may_be_on_its_way_for_a_day(warehouse: Warehouse) -> None:
    warehouse.load_all(change(3, "g5", ago(hours=9)))
    warehouse.dbt(*CARTS)
    warehouse.load_all(change(2, "g5", ago(hours=10), published_at=ago(hours=8)))


def test_rows_that_leave_bronze_are_told_until_they_are_put_back(warehouse: Warehouse) -> None:
    left = put_aside(warehouse, ago(25))
    with pytest.raises(DbtError, match=LEFT):
        warehouse.dbt(*CARTS)
    warehouse.load_all(left)
    warehouse.dbt(*CARTS)


@pytest.mark.parametrize("others", [1, 2, 3])
def test_rows_that_leave_bronze_are_told_where_others_came_on_their_day(
    warehouse: Warehouse, others: int
) -> None:
    left = put_aside(warehouse, ago(20))
    warehouse.load_all(
        delivery("created", number, 1, ago(20), after=cart(number, (1, 1)), generation="g4")
        for number in range(11, 11 + others)
    )
    with pytest.raises(DbtError, match=LEFT):
        warehouse.dbt(*CARTS)
    put_aside(warehouse, ago(20))
    warehouse.load_all(left)
    warehouse.dbt(*CARTS)


def test_a_row_that_no_run_reads_any_more_is_told_until_all_is_built_anew(
    warehouse: Warehouse,
) -> None:
    warehouse.load_all(change(3, "g1", ago(90)))
    assert refusals(warehouse) == {UNREAD}
    # the base alone does not help those that are made of it
    warehouse.dbt("run", "--full-refresh", "--select", "base_cart_events")
    with pytest.raises(DbtError, match=r"built anew, and .*int_cart_history.*, was not"):
        warehouse.dbt(*CARTS)
    warehouse.dbt(*CARTS, "--full-refresh")


def test_a_row_that_another_has_replaced_is_told_though_no_run_reads_its_day(
    warehouse: Warehouse,
) -> None:
    left = put_aside(warehouse, ago(90))
    warehouse.load_all(change(4, "g1", ago(90)))
    assert refusals(warehouse) == {UNREAD}
    put_aside(warehouse, ago(90))
    warehouse.load_all(left)
    warehouse.dbt(*CARTS)


def test_a_row_on_no_day_is_told(warehouse: Warehouse) -> None:
    ((table, row),) = change(4, "g5", ago(0))
    warehouse.load(table, [row | {"publish_time": None}])
    assert refusals(warehouse) == {UNREAD}
    warehouse.rows("delete from bronze_data.carts_events_raw where publish_time is null")


def test_an_event_from_the_future_is_told(warehouse: Warehouse) -> None:
    in_an_hour = NOW + dt.timedelta(hours=1)
    warehouse.load_all(change(4, "g5", in_an_hour, published_at=NOW))
    assert refusals(warehouse) == {"no_event_is_from_the_future_else_mend_the_poller_s_clock"}


def test_a_batch_run_from_the_future_is_told(warehouse: Warehouse) -> None:
    warehouse.load_all(batch_run("carts", NOW + dt.timedelta(hours=1), [cart(1, (1, 1))]))
    runs = ("build", "--select", "+stg_entity_runs", "--exclude-resource-type", "unit_test")
    (rule,) = refusals(warehouse, *runs)
    assert rule.startswith("sound_stg_entity_runs")
