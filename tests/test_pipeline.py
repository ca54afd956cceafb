"""From the API to gold, once through every stage as its users run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests

from ingestion.project import PROJECT_FOLDER
from local_gcp.servers import LocalGcp

DBT = str(Path(sys.executable).with_name("dbt"))
DELIVERY_SECONDS = 120.0

pytestmark = pytest.mark.timeout(1200)


@dataclass
class Shop:
    """A local GCP on which everything ran, what the stages said, and what the API then held."""

    gcp: LocalGcp
    output: str = ""
    carts: list[dict[str, Any]] = field(default_factory=list)
    prices: dict[int, Decimal] = field(default_factory=dict)

    def run(self, *command: str) -> None:
        """Run a stage as a process in the demo's folder; it has to succeed."""
        process = subprocess.run(
            command,
            cwd=PROJECT_FOLDER,
            env={
                **os.environ,
                **self.gcp.environment,
                "DBT_TARGET_PATH": str(self.gcp.root / "target"),
                "DBT_LOG_PATH": str(self.gcp.root / "dbt_logs"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output += process.stdout
        assert process.returncode == 0, process.stdout

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query through BigQuery's client."""
        return [dict(row) for row in self.gcp.clients.bigquery.query(sql).result(timeout=120)]

    def sums(self, table: str, *columns: str) -> list[int]:
        """Return the sums of columns of a gold table that has a row per day: midnight may pass."""
        rows = self.query(f"select * from `gold_data.{table}`")
        return [sum(row[column] for row in rows) for column in columns]

    def await_events(self, rows: int) -> None:
        """Wait until the BigQuery subscription has written so many rows."""
        deadline = time.monotonic() + DELIVERY_SECONDS
        written = 0
        while written < rows:
            assert time.monotonic() < deadline, f"{written} of {rows} rows reached bronze"
            counted = self.query("select count(*) as n from `bronze_data.carts_events_raw`")
            written = counted[0]["n"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    root = tmp_path_factory.mktemp("pipeline")
    with LocalGcp(root) as gcp:
        shop = Shop(gcp)
        # the real service delivers at least once; here each event comes twice
        gcp.kill("subscription")
        gcp.start("subscription", "--deliver-twice")
        poll = (
            *(sys.executable, "near_realtime_ingestion_2.py", "--once"),
            *("--state-file", str(root / "state" / "carts_state.json")),
            *("--events-dir", str(root / "events")),
        )
        shop.run(sys.executable, "batch_ingestion.py", "--raw-dir", str(root / "raw"))
        shop.run(*poll)
        store = f"{gcp.api_url}/carts"
        new = {"userId": 5, "date": "2020-03-09T00:00:00.000Z"}
        lines = [{"productId": 2, "quantity": 3}, {"productId": 2, "quantity": 1}]
        for answer in (
            requests.post(store, json={**new, "products": lines}, timeout=60),
            requests.patch(f"{store}/1", json={"products": lines[:1]}, timeout=60),
            requests.delete(f"{store}/3", timeout=60),
        ):
            answer.raise_for_status()
        shop.run(*poll)
        shop.carts = requests.get(store, timeout=60).json()
        products = requests.get(f"{gcp.api_url}/products", timeout=60).json()
        shop.prices = {product["id"]: Decimal(str(product["price"])) for product in products}
        shop.await_events(2 * (7 + 3))
        shop.run(*(DBT, "build", "--project-dir", "ey_test_tech", "--profiles-dir", "ey_test_tech"))
        yield shop


def test_gold_holds_exactly_the_lines_of_the_carts_that_exist(shop: Shop) -> None:
    expected = sorted(
        (cart["id"], cart["userId"], line["productId"], line["quantity"], price, total)
        for cart in shop.carts
        for line in cart["products"]
        for price in [shop.prices[line["productId"]]]
        for total in [price * line["quantity"]]
    )
    rows = shop.query("select * from `gold_data.fact_cart_items`")
    names = ("cart_id", "user_id", "product_id", "quantity", "unit_price", "line_total")
    assert sorted(tuple(row[name] for name in names) for row in rows) == expected
    assert {cart["id"] for cart in shop.carts} == {1, 2, 4, 5, 6, 7, 8}


def test_events_delivered_twice_are_counted_once(shop: Shop) -> None:
    deliveries, events, duplicates = shop.sums(
        "pipeline_health", "deliveries", "events", "duplicates"
    )
    # a busy machine is slow to acknowledge, and is sent some once more
    assert deliveries >= 20
    assert (events, duplicates) == (10, deliveries - 10)
    changes = ("snapshot_carts", "created_carts", "modifications", "deleted_carts")
    assert shop.sums("kpi_cart_lifecycle", *changes) == [7, 1, 1, 1]


def test_the_totals_of_the_report_are_golds(shop: Shop) -> None:
    page = shop.gcp.root / "report" / "index.html"
    shop.run(sys.executable, "kpi_report.py", "--output", str(page))
    shown = dict(re.findall(r'data-figure="(\w+)" data-value="([^"]*)"', page.read_text()))
    [totals] = shop.query("select * from `gold_data.kpi_totals`")
    assert shown == {name: str(totals[name]) for name in shown}
    assert Decimal(shown["value"]) == sum(
        shop.prices[line["productId"]] * line["quantity"]
        for cart in shop.carts
        for line in cart["products"]
    )
    assert "The pipeline is well" in page.read_text()


def test_no_password_is_in_any_file_object_table_or_log(shop: Shop) -> None:
    users = requests.get(f"{shop.gcp.api_url}/users", timeout=60).json()
    secrets = [user["password"] for user in users]
    spelled = [json.dumps(secret)[1:-1] for secret in secrets]
    places = {"the stages' output": shop.output}
    for file in shop.gcp.root.rglob("*"):
        if file.is_file():
            places[str(file)] = file.read_bytes().decode(errors="replace")
    assert any("data.json" in place for place in places), "the raw objects were not looked at"
    for dataset in ("bronze_data", "silver_data", "gold_data"):
        for table in shop.gcp.clients.bigquery.list_tables(dataset):
            name = f"{dataset}.{table.table_id}"
            rows = shop.query(f"select to_json_string(t) as line from `{name}` as t")
            places[name] = "\n".join(row["line"] for row in rows)
    assert len([place for place in places if place.startswith("gold_data.")]) >= 10
    found = [
        place for place, text in places.items() for word in (*secrets, *spelled) if word in text
    ]
    assert found == []
