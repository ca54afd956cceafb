"""The Fake Store's real answers give the known figures, with new columns and one entity late."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.dbt_warehouse import Row
from tests.support.shared import FAKESTORE
from tests.support.shop_history import timestamp

if TYPE_CHECKING:
    from tests.support.dbt_warehouse import Warehouse

pytest_plugins = ["tests.support.dbt_fixtures"]
pytestmark = pytest.mark.timeout(1200)

VALUE_AND_UNITS_BY_CATEGORY = {
    "men's clothing": (Decimal("2646.44"), 31),
    "jewelery": (Decimal("1410.98"), 4),
    "electronics": (Decimal("624.00"), 6),
    "women's clothing": (Decimal("9.85"), 1),
}
USER_LINES_UNITS_AND_VALUE_BY_CART = {
    1: (1, 3, 11, Decimal("798.04")),
    2: (1, 3, 16, Decimal("2578.70")),
    3: (2, 2, 3, Decimal("283.90")),
    4: (3, 1, 4, Decimal("439.80")),
    5: (3, 2, 2, Decimal("20.98")),
    6: (4, 2, 5, Decimal("560.00")),
    7: (8, 1, 1, Decimal("9.85")),
}


def answer(entity: str) -> list[Row]:
    """Return what the Fake Store answers, or skip where the file is not at hand."""
    file = FAKESTORE / f"{entity}.json"
    if not file.is_file():
        pytest.skip(f"../shared/fakestore/{entity}.json is missing: no known answers to compare")
    records: list[Row] = json.loads(file.read_text())
    return records


def batch_rows(entity: str, at: dt.datetime) -> Iterator[tuple[str, Row]]:
    """Yield what a batch run writes to bronze, with a column that the API never had before."""
    records = answer(entity)
    for record in records:
        record.pop("password", None)
        row = {
            "record": record | {"eco_label": {"grade": "A"}},
            "_run_id": "run",
            "_ingested_at": timestamp(at),
            "_source_url": f"https://fakestoreapi.com/{entity}",
        }
        yield f"{entity}_raw", row
    yield (
        "ingestion_runs",
        {
            "run_id": "run",
            "entity": entity,
            "object": f"gs://raw/raw/{entity}/date={at:%Y-%m-%d}/run_id=run/data.json",
            "records": len(records),
            "quarantined": 0,
            "bytes": 1,
            "crc32c": "AAAAAA==",
            "job_id": entity,
            "started_at": timestamp(at),
            "finished_at": timestamp(at),
            "status": "loaded",
        },
    )


def cold_start_rows(at: dt.datetime) -> Iterator[tuple[str, Row]]:
    """Yield the events of a cold start on all carts."""
    carts = answer("carts")
    for cart in carts:
        document: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"event {cart['id']}",
            "type": "com.fakestoreapi.cart_created",
            "time": timestamp(at),
            "generation": f"{at:%Y%m%dT%H%M%S}000Z-00000000",
            "sequence": "0000000001",
            "data": {
                "cart_id": cart["id"],
                "after": cart | {"coupon": None},
                "snapshot": {"size": len(carts)},
            },
        }
        row = {
            "subscription_name": "s",
            "message_id": str(cart["id"]),
            "publish_time": timestamp(at),
            "data": document,
            "attributes": {},
        }
        yield "carts_events_raw", row


@pytest.fixture(scope="module")
def without_users(make_warehouse: Callable[[str], Warehouse]) -> tuple[Warehouse, list[Row]]:
    """Return a warehouse after a first run with the users missing, and its fact table."""
    warehouse = make_warehouse("known-answers")
    now = dt.datetime.now(dt.UTC)
    warehouse.load_all([*cold_start_rows(now), *batch_rows("products", now)])
    warehouse.dbt("run")
    return warehouse, warehouse.table("gold_data.fact_cart_items")


@pytest.fixture(scope="module")
def complete(without_users: tuple[Warehouse, list[Row]]) -> Warehouse:
    """Return the warehouse after a run with everything in bronze."""
    warehouse, _ = without_users
    warehouse.load_all(batch_rows("users", dt.datetime.now(dt.UTC)))
    warehouse.dbt("run")
    return warehouse


def test_without_users_the_lines_are_there_and_point_to_the_unknown_user(
    without_users: tuple[Warehouse, list[Row]],
) -> None:
    _, lines = without_users
    assert len(lines) == 14
    assert {line["user_key"] for line in lines} == {"unknown"}
    assert sum(line["line_total"] for line in lines) == Decimal("4691.27")


def test_the_whole_shop_has_the_known_value(complete: Warehouse) -> None:
    (totals,) = complete.table("gold_data.kpi_totals")
    assert (totals["carts"], totals["cart_lines"], totals["units"]) == (7, 14, 42)
    assert totals["value"] == Decimal("4691.27")
    assert totals["average_cart_value"] == Decimal("670.18")


def test_each_cart_has_the_known_value(complete: Warehouse) -> None:
    rows = complete.rows(
        """
        select cart_id, user_id, count(*) as cart_lines, sum(quantity) as units,
            sum(line_total) as value
        from gold_data.fact_cart_items
        group by cart_id, user_id
        """
    )
    assert {
        row["cart_id"]: (row["user_id"], row["cart_lines"], row["units"], row["value"])
        for row in rows
    } == USER_LINES_UNITS_AND_VALUE_BY_CART


def test_each_category_has_the_known_value(complete: Warehouse) -> None:
    rows = complete.table("gold_data.kpi_categories")
    found = {row["category"]: (row["value"], row["units"]) for row in rows}
    assert found == VALUE_AND_UNITS_BY_CATEGORY


def test_dimensions_hold_every_record_of_the_api(complete: Warehouse) -> None:
    products = complete.table("gold_data.dim_products")
    users = complete.table("gold_data.dim_users")
    assert {row["product_id"] for row in products} == {None, *range(1, 21)}
    assert {row["user_id"] for row in users} == {None, *range(1, 11)}
    assert all(row["title"] == row["title"].strip() for row in products)


def test_users_that_come_later_are_found(complete: Warehouse) -> None:
    lines = complete.table("gold_data.fact_cart_items")
    assert "unknown" not in {line["user_key"] for line in lines}


def test_no_password_and_no_personal_data_is_in_gold(complete: Warehouse) -> None:
    text = repr(complete.tables("gold_data"))
    silver = repr(complete.tables("silver_data"))
    for user in answer("users"):
        assert user["password"] not in text + silver
        for value in (user["email"], user["phone"], user["address"]["street"]):
            assert value not in text
