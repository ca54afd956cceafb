"""Fixtures of the dbt tests; a test module names this one in its `pytest_plugins`."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.dbt_warehouse import DbtError, Row, Warehouse, today
from tests.support.shop_history import Shop, thirty_days

Tables = dict[str, dict[str, list[Row]]]


@dataclass
class History:
    """Thirty days of a shop, taken in three slices, and what dbt made of them.

    dbt's target is `bigquery`. Attributes that end in `_sql` hold the statements that dbt sent, of
    `incremental_sql` with data tests and unit tests; every other attribute has rows by table.
    """

    shop: Shop
    warehouse: Warehouse
    first_bronze: dict[str, list[Row]] = field(default_factory=dict)
    first_sql: list[str] = field(default_factory=list)
    first_tables: Tables = field(default_factory=dict)
    incremental_sql: list[str] = field(default_factory=list)
    full_refresh_sql: list[str] = field(default_factory=list)
    freshness_sql: list[str] = field(default_factory=list)
    tables: Tables = field(default_factory=dict)
    tables_after_another_run: Tables = field(default_factory=dict)
    tables_after_full_refresh: Tables = field(default_factory=dict)

    @property
    def manifest(self) -> dict[str, Any]:
        """dbt's manifest of the project."""
        found: dict[str, Any] = json.loads((self.warehouse.folder / "manifest.json").read_text())
        return found


@pytest.fixture(scope="session")
def make_warehouse(gcp: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Warehouse]:
    """Return a function that makes a warehouse in a BigQuery project of its own."""

    def make(project_id: str, target: str = "local") -> Warehouse:
        folder: Path = tmp_path_factory.mktemp(project_id)
        warehouse = Warehouse(gcp.environment, project_id, folder, target)
        warehouse.empty()
        return warehouse

    return make


@pytest.fixture(scope="session")
def history(make_warehouse: Callable[..., Warehouse]) -> History:
    """Let thirty days pass, with a dbt run after the 12th, the 20th and the last."""
    # events wait up to two days in the outbox: the last must not lie in the future
    shop = thirty_days(today() - dt.timedelta(days=3))
    warehouse = make_warehouse("shop-history", target="bigquery")
    made = History(shop, warehouse)

    def load(first: int, end: int) -> None:
        days = range(first, end)
        warehouse.load_all(
            (delivery.table, delivery.row)
            for delivery in shop.bronze
            if (delivery.arrived_at.date() - shop.first_day).days in days
        )

    def snapshot() -> Tables:
        return {name: warehouse.tables(name) for name in ("silver_data", "gold_data")}

    load(0, 12)
    made.first_sql = warehouse.dbt("run")
    made.first_bronze = warehouse.tables("bronze_data")
    made.first_tables = snapshot()
    load(12, 20)
    warehouse.dbt("run", "--selector", "silver")
    load(20, 60)
    made.incremental_sql = warehouse.dbt("build")
    made.tables = snapshot()
    warehouse.dbt("run")
    made.tables_after_another_run = snapshot()
    made.full_refresh_sql = warehouse.dbt("run", "--full-refresh")
    made.tables_after_full_refresh = snapshot()
    # the shop's last day is three days ago
    with pytest.raises(DbtError, match="products_raw: error"):
        warehouse.dbt("source", "freshness")
    made.freshness_sql = [job.sql for job in warehouse.jobs]
    return made
