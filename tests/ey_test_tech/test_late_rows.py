"""Rows that come late, twice, out of bounds, or between two dbt: gold is that of a full refresh."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from tests.support.cart_deliveries import batch_run, cart, delivery
from tests.support.dbt_fixtures import Tables
from tests.support.dbt_warehouse import DbtError, Row, Warehouse, comparable, today

pytest_plugins = ["tests.support.dbt_fixtures"]
# the first test waits for four dbt runs
pytestmark = pytest.mark.timeout(1200)

Rows = Iterator[tuple[str, Row]]
NOON = dt.datetime.combine(today(), dt.time(0), dt.UTC) - dt.timedelta(hours=12)


def days_ago(days: int) -> dt.datetime:
    """Return noon of a day; 0 is yesterday."""
    return NOON - dt.timedelta(days=days)


def products(price: int) -> list[Row]:
    """Return what the API says of two products."""
    return [
        {"id": number, "title": f"Thing {number}", "category": "things", "price": price + number}
        for number in (1, 2)
    ]


def users(city: str) -> list[Row]:
    """Return what the API says of one user."""
    return [{"id": 1, "address": {"city": city}}]


def in_time() -> Rows:
    """Yield what reached bronze before the first dbt run."""
    for number in (1, 2, 3, 4):
        yield delivery("created", number, 1, days_ago(60), after=cart(number, (1, number)), size=4)
    yield delivery("modified", 1, 2, days_ago(50), after=cart(1, (1, 5)), before=cart(1, (1, 1)))
    yield delivery("created", 5, 1, days_ago(9), after=cart(5, (1, 1)))
    yield delivery("created", 7, 1, days_ago(3), after=cart(7, (2, 1)))
    for days in range(12, 1, -1):
        yield from batch_run("products", days_ago(days), products(10 if days > 6 else 20))
    yield from batch_run("users", days_ago(12), users("Mesa"))


def late() -> Rows:
    """Yield what came after it, much of it older than what was there."""
    # two days' dead letters, sought six days later: with their old publish_time
    yield delivery("modified", 5, 2, days_ago(8), after=cart(5, (1, 9)), before=cart(5, (1, 1)))
    yield delivery("created", 6, 1, days_ago(8), after=cart(6, (2, 3)))
    yield delivery("deleted", 5, 3, days_ago(7), before=cart(5, (1, 9)))
    # a first copy that comes after its second, and a second one after more than a month
    yield delivery("created", 7, 1, days_ago(3), after=cart(7, (2, 1)), again_at=days_ago(5))
    yield delivery(
        *("modified", 1, 2, days_ago(50)),
        after=cart(1, (1, 5)),
        before=cart(1, (1, 1)),
        again_at=days_ago(1),
    )
    # a snapshot without the carts 2 and 4, and with one that cannot be believed
    yield delivery("created", 1, 1, days_ago(2), after=cart(1, (1, 5)), generation="g2", size=5)
    yield delivery("created", 3, 1, days_ago(2), after=cart(3, (1, -5)), generation="g2", size=5)
    for number, lines in ((6, (2, 3)), (7, (2, 1))):
        after = cart(number, lines)
        yield delivery("created", number, 1, days_ago(2), after=after, generation="g2", size=5)
    yield delivery("created", 8, 1, days_ago(2), after=cart(8), generation="g2", size=5)
    # values that nobody can mean
    for number, wild in (
        (20, cart(20, (1, 9 * 10**18))),
        (21, cart(21, (1, 1), date="0202-03-02")),
        (22, cart(22, (1, 1), date="9999-03-02")),
    ):
        yield delivery("created", number, 1, days_ago(1), after=wild, generation="g2")
    # users that were refused for ten days, and a second run of one morning
    for days in range(11, 1, -1):
        yield from batch_run("users", days_ago(days), users("Mesa" if days > 8 else "Kilcoole"))
    yield from batch_run("products", days_ago(9) + dt.timedelta(hours=1), products(15))


@dataclass
class Late:
    """What dbt made of the rows, and what a full refresh makes of the same."""

    warehouse: Warehouse
    tables: Tables = field(default_factory=dict)
    refreshed: Tables = field(default_factory=dict)


@pytest.fixture(scope="module")
def made(make_warehouse: Callable[[str], Warehouse]) -> Late:
    """Run dbt, then once more while another dbt does, then refresh everything."""
    warehouse = make_warehouse("late-rows")
    made = Late(warehouse)
    warehouse.load_all(in_time())
    warehouse.dbt("run")
    warehouse.load_all(late())
    others = iter(["run"])

    def another_dbt(statement: str) -> None:
        # it rebuilds the same days after this one has found them and before it deletes them
        replaces_days = "begin transaction" in statement and "`base_cart_events`" in statement
        if replaces_days and next(others, None):
            new_day = delivery("created", 9, 1, NOON, after=cart(9, (1, 1)), generation="g2")
            warehouse.load_all([new_day])
            warehouse.other_dbt("run", "--select", "base_cart_events")

    warehouse.dbt("run", before_statement=another_dbt)
    assert next(others, None) is None, "the other dbt was not started"
    made.tables = {name: warehouse.tables(name) for name in ("silver_data", "gold_data")}
    warehouse.dbt("build", "--full-refresh", "--exclude-resource-type", "unit_test")
    made.refreshed = {name: warehouse.tables(name) for name in ("silver_data", "gold_data")}
    return made


@pytest.mark.parametrize("dataset", ["silver_data", "gold_data"])
def test_what_came_late_gives_the_same_as_a_full_refresh(made: Late, dataset: str) -> None:
    sliced, refreshed = made.tables[dataset], made.refreshed[dataset]
    different = [
        table
        for table in sorted(sliced.keys() | refreshed.keys())
        if comparable(sliced[table]) != comparable(refreshed[table])
    ]
    assert different == []


def test_two_dbt_at_once_double_no_row(made: Late) -> None:
    (bronze,) = made.warehouse.rows("select count(*) as n from bronze_data.carts_events_raw")
    assert len(made.tables["silver_data"]["base_cart_events"]) == bronze["n"]


def test_events_that_were_sought_again_are_in_gold(made: Late) -> None:
    carts = {row["cart_id"]: row for row in made.tables["gold_data"]["fact_carts"]}
    assert 5 not in carts
    assert carts[6]["units"] == 3


def test_a_copy_after_more_than_a_month_counts_nothing(made: Late) -> None:
    events = made.tables["gold_data"]["fact_cart_events"]
    modified = [row["event_at"].date() for row in events if row["event_type"] == "modified"]
    assert sorted(modified) == [days_ago(50).date(), days_ago(8).date()]
    health = {row["day"]: row for row in made.tables["gold_data"]["pipeline_health"]}
    assert health[days_ago(1).date()]["duplicates"] == 1
    assert health[days_ago(3).date()]["duplicates"] == 1
    assert health[days_ago(5).date()]["events"] == 1


def test_a_snapshot_is_complete_with_what_was_rejected_of_it(made: Late) -> None:
    carts = {row["cart_id"] for row in made.tables["gold_data"]["fact_carts"]}
    # 2 and 4 are gone; 3 is there, as it was when it could last be read
    assert carts == {1, 3, 6, 7, 8, 9}
    generations = made.tables["silver_data"]["stg_cart_generations"]
    assert all(row["is_complete"] for row in generations)


def test_runs_that_were_recorded_late_are_all_read(made: Late) -> None:
    versions = made.tables["gold_data"]["dim_users"]
    cities = {row["valid_from"]: row["city"] for row in versions if row["user_id"]}
    assert cities == {days_ago(12): "Mesa", days_ago(8): "Kilcoole"}
    prices = {
        row["valid_from"]: row["price"]
        for row in made.tables["gold_data"]["dim_products"]
        if row["product_id"] == 1
    }
    assert prices == {
        days_ago(12): Decimal(11),
        days_ago(9) + dt.timedelta(hours=1): Decimal(16),
        days_ago(8): Decimal(11),
        days_ago(6): Decimal(21),
    }


def test_values_out_of_bounds_are_rejected_with_their_reasons(made: Late) -> None:
    reasons = sorted(
        row["rejected_reason"] for row in made.tables["silver_data"]["rejected_records"]
    )
    assert reasons == [
        "a quantity is outside 1 to 1000000",
        "a quantity is outside 1 to 1000000",
        "date is before 1970 or more than ten years ahead",
        "date is before 1970 or more than ten years ahead",
    ]
    days = [row["date_day"] for row in made.tables["gold_data"]["dim_dates"]]
    assert (min(days), max(days)) == (dt.date(2020, 1, 1), dt.date(today().year, 12, 31))


def test_a_cart_without_lines_exists(made: Late) -> None:
    (totals,) = made.tables["gold_data"]["kpi_totals"]
    assert totals["carts"] == 6
    assert {row["carts"] for row in made.tables["gold_data"]["kpi_days"]} == {6}


def test_a_table_that_reads_itself_is_not_lost_when_its_clustering_changes(made: Late) -> None:
    name = "silver_data.int_cart_history"
    table = made.warehouse.client.get_table(name)
    table.clustering_fields = ["cart_id"]
    made.warehouse.client.update_table(table, ["clustering_fields"])
    rows = made.warehouse.table(name)
    with pytest.raises(DbtError, match="run dbt build --full-refresh"):
        made.warehouse.dbt("run", "--select", "int_cart_history")
    assert comparable(made.warehouse.table(name)) == comparable(rows)
