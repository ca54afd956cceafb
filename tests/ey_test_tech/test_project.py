"""What every model of the dbt project must have, read from dbt's own manifest."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ingestion.project import PROJECT_FOLDER, SCHEMA_FOLDER
from tests.support import shop_gold
from tests.support.dbt_warehouse import DBT_PROJECT, Warehouse, comparable, today
from tests.support.shop_history import thirty_days

if TYPE_CHECKING:
    from tests.support.dbt_fixtures import History

pytest_plugins = ["tests.support.dbt_fixtures"]
pytestmark = pytest.mark.timeout(1200)

FIXED_COLUMNS = {
    "fact_cart_items": """
        cart_item_key cart_id line_number user_id user_key product_id product_key date_day
        quantity unit_price line_total
    """,
    "dim_products": "product_key product_id title category price valid_from valid_to is_current",
    "dim_users": "user_key user_id city valid_from valid_to is_current",
    "dim_dates": "date_day",
}
PERSONAL_DATA = {"username", "email", "first_name", "last_name", "phone", "street"}


# gold that is no figure of the shop; a view shows what is so when it is read
ABOUT_THE_PIPELINE = ("cart_verification", "pipeline_health", "pipeline_runs", "fact_cart_events")


@pytest.fixture(scope="module")
def manifest(history: History) -> dict[str, Any]:
    """Return dbt's manifest."""
    return history.manifest


@pytest.fixture(scope="module")
def models(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the models by name."""
    nodes = manifest["nodes"].values()
    return {node["name"]: node for node in nodes if node["resource_type"] == "model"}


def test_every_model_and_every_column_is_described(
    history: History, models: dict[str, Any]
) -> None:
    for dataset, tables in history.tables.items():
        for table, rows in tables.items():
            model = models[table]
            assert model["schema"] == dataset
            assert model["description"].startswith("One row"), f"{table}: begin with the grain"
            described = {name for name, c in model["columns"].items() if c["description"]}
            assert rows, f"{table} has no row to compare its columns with"
            assert described == rows[0].keys(), table


def test_every_bronze_column_is_described(manifest: dict[str, Any]) -> None:
    for source in manifest["sources"].values():
        fields = json.loads((SCHEMA_FOLDER / f"{source['name']}.json").read_text())
        described = {name for name, c in source["columns"].items() if c["description"]}
        assert described == {field["name"] for field in fields}


def test_every_gold_table_has_an_enforced_contract_and_the_columns_that_others_rely_on(
    models: dict[str, Any],
) -> None:
    gold = {name: model for name, model in models.items() if model["schema"] == "gold_data"}
    for model in gold.values():
        assert model["config"]["contract"]["enforced"]
    for name, columns in FIXED_COLUMNS.items():
        assert set(columns.split()) <= gold[name]["columns"].keys()


def test_the_verification_is_built_after_every_figure(
    manifest: dict[str, Any], models: dict[str, Any]
) -> None:
    """What a build that failed has left as it was must not be called verified until today."""
    waiting, before = [models["cart_verification"]["unique_id"]], set()
    while waiting:
        before |= (found := set(manifest["parent_map"][waiting.pop()]) - before)
        waiting.extend(found)
    gold = {model["unique_id"] for model in models.values() if model["schema"] == "gold_data"}
    spoken_for = {name for name in gold - before if not name.endswith(ABOUT_THE_PIPELINE)}
    assert spoken_for == set()


def test_the_readme_shows_what_dbt_counts(manifest: dict[str, Any]) -> None:
    kinds = Counter(node["resource_type"] for node in manifest["nodes"].values())
    tests, unit_tests = kinds["test"], len(manifest["unit_tests"])
    nodes = kinds["model"] + tests + len(manifest["exposures"])
    demo, build, test = re.findall(r"TOTAL=(\d+)", (PROJECT_FOLDER / "README.md").read_text())
    assert (int(demo), int(build), int(test)) == (nodes, nodes + unit_tests, tests + unit_tests)


def test_every_key_is_tested(manifest: dict[str, Any], models: dict[str, Any]) -> None:
    tested = {
        (test["attached_node"].rsplit(".", 1)[1], argument, column)
        for test in manifest["nodes"].values()
        if test["resource_type"] == "test" and "test_metadata" in test
        for argument in ("key", "never_null", "resolves")
        for column in test["test_metadata"]["kwargs"].get(argument, ())
    }
    for name in ("fact_cart_items", "dim_products", "dim_users", "dim_dates"):
        columns = models[name]["columns"]
        for column in columns:
            if column.endswith("_key") or column == "date_day":
                assert (name, "never_null", column) in tested
                is_foreign = name == "fact_cart_items" and column != "cart_item_key"
                assert (name, "resolves" if is_foreign else "key", column) in tested


def test_personal_data_is_tagged_in_silver_and_has_no_column_in_gold(
    models: dict[str, Any],
) -> None:
    for name, model in models.items():
        for column, described in model["columns"].items():
            if column in PERSONAL_DATA:
                assert model["schema"] == "silver_data"
                assert "pii" in described["config"]["tags"], f"{name}.{column}"


def test_the_report_names_all_that_it_reads(manifest: dict[str, Any]) -> None:
    text = (PROJECT_FOLDER / "reporting" / "parts.py").read_text()
    (exposure,) = manifest["exposures"].values()
    read = {node.rsplit(".", 1)[1] for node in exposure["depends_on"]["nodes"]}
    assert read
    assert all(f'"{name}"' in text for name in read)


@pytest.mark.slow
def test_the_guide_s_commands_work_from_the_project_s_folder_on_an_empty_bronze(
    make_warehouse: Callable[[str], Warehouse], tmp_path: Path
) -> None:
    warehouse = make_warehouse("guide-project")
    dbt = str(Path(sys.executable).with_name("dbt"))
    environment = os.environ | warehouse.environment | {"DBT_TARGET_PATH": str(tmp_path)}
    for command in (["deps"], ["build"], ["test"], ["docs", "generate", "--empty-catalog"]):
        finished = subprocess.run(
            [dbt, *command],
            cwd=DBT_PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert finished.returncode == 0, finished.stdout
    assert (tmp_path / "index.html").is_file()
    assert warehouse.table("gold_data.fact_cart_items") == []
    assert [row["user_key"] for row in warehouse.table("gold_data.dim_users")] == ["unknown"]
    days = [row["date_day"] for row in warehouse.table("gold_data.dim_dates")]
    assert (min(days), max(days)) == (dt.date(2020, 1, 1), dt.date(today().year, 12, 31))


@pytest.mark.slow
def test_a_developer_s_datasets_stand_beside_the_shared_ones(
    make_warehouse: Callable[[str], Warehouse],
) -> None:
    warehouse = make_warehouse("developer-project")
    warehouse.environment["DBT_DATASET_PREFIX"] = "ana_"
    warehouse.dbt("run", "--select", "pipeline_runs", "stg_ingestion_runs")
    assert warehouse.tables("ana_silver_data").keys() == {"stg_ingestion_runs"}
    assert warehouse.tables("ana_gold_data").keys() == {"pipeline_runs"}
    assert warehouse.tables("silver_data") == {}
    assert any("`bronze_data`.`ingestion_runs`" in job.sql for job in warehouse.jobs)


@pytest.mark.slow
def test_an_empty_warehouse_fills_up(make_warehouse: Callable[[str], Warehouse]) -> None:
    """What an incremental model read while it was empty must not hide what comes later."""
    warehouse = make_warehouse("filling-project")
    warehouse.dbt("run")
    shop = thirty_days(today() - dt.timedelta(days=3))
    warehouse.load_all((delivery.table, delivery.row) for delivery in shop.bronze)
    warehouse.dbt("build")
    figures = shop_gold.gold(shop)
    for table, rows in warehouse.tables("gold_data").items():
        assert comparable(rows) == comparable(figures[table]), table
