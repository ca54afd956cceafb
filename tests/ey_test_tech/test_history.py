"""Gold after thirty days of a shop, against figures kept while the shop was simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import shop_gold
from tests.support.dbt_warehouse import comparable

if TYPE_CHECKING:
    from tests.support.dbt_fixtures import History

pytest_plugins = ["tests.support.dbt_fixtures"]
# the first test waits for five dbt runs
pytestmark = pytest.mark.timeout(1200)

GOLD_TABLES = (
    "cart_verification",
    "dim_dates",
    "dim_products",
    "dim_users",
    "fact_cart_events",
    "fact_cart_items",
    "fact_carts",
    "kpi_cart_lifecycle",
    "kpi_categories",
    "kpi_days",
    "kpi_products",
    "kpi_totals",
    "kpi_users",
    "pipeline_health",
    "pipeline_runs",
)


@pytest.mark.parametrize("table", GOLD_TABLES)
def test_every_number_in_gold_is_what_truly_happened(history: History, table: str) -> None:
    expected = shop_gold.gold(history.shop)[table]
    assert comparable(history.tables["gold_data"][table]) == comparable(expected)


def test_no_gold_table_is_left_unchecked(history: History) -> None:
    assert sorted(history.tables["gold_data"]) == sorted(GOLD_TABLES)


def test_the_history_has_all_that_can_go_wrong(history: History) -> None:
    health = shop_gold.pipeline_health(history.shop)
    lifecycle = shop_gold.kpi_cart_lifecycle(history.shop)
    for name in (
        "duplicates",
        "rejected_events",
        "rejected_records",
        "failed_runs",
        "incomplete_runs",
        "incomplete_snapshots",
        "quarantined",
    ):
        assert sum(day[name] for day in health) > 0
    for name in ("snapshot_carts", "deleted_carts", "superseded_carts", "whole_lives"):
        assert sum(day[name] for day in lifecycle) > 0
    products = history.tables["gold_data"]["dim_products"]
    assert any(row["is_current"] and not row["is_listed"] for row in products)
    lives = history.tables["silver_data"]["stg_cart_lives"]
    assert any(row["life_number"] > 1 for row in lives)
    generations = history.tables["silver_data"]["stg_cart_generations"]
    assert {row["is_complete"] for row in generations} == {True, False}
    assert any(row["cart_lines"] == 0 for row in history.tables["gold_data"]["fact_carts"])
    assert any(
        row["product_key"] == "unknown" for row in history.tables["gold_data"]["fact_cart_items"]
    )


@pytest.mark.parametrize("dataset", ["silver_data", "gold_data"])
def test_slices_give_the_same_as_a_full_refresh(history: History, dataset: str) -> None:
    sliced, refreshed = history.tables[dataset], history.tables_after_full_refresh[dataset]
    for table in sliced.keys() | refreshed.keys():
        assert comparable(sliced[table]) == comparable(refreshed[table]), table


@pytest.mark.parametrize("dataset", ["silver_data", "gold_data"])
def test_another_run_changes_nothing(history: History, dataset: str) -> None:
    before, after = history.tables[dataset], history.tables_after_another_run[dataset]
    for table in before.keys() | after.keys():
        assert comparable(before[table]) == comparable(after[table]), table


def test_gold_holds_no_personal_data(history: History) -> None:
    text = repr(history.tables["gold_data"])
    for user in history.shop.users.values():
        for secret in (user["email"], user["phone"], user["username"], user["address"]["street"]):
            assert secret not in text
    assert "o'hara" not in text
