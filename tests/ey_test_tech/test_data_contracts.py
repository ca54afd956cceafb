"""The contracts of the gold tables are those of dbt's YAML, and of the standard's shape."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from ey_test_tech import data_contracts
from tests.support.dbt_warehouse import DBT_PROJECT

if TYPE_CHECKING:
    from tests.support.dbt_fixtures import History

pytest_plugins = ["tests.support.dbt_fixtures"]
pytestmark = pytest.mark.timeout(1200)

FILES = {file.name.split(".")[0]: file for file in data_contracts.FOLDER.glob("*.odcs.yaml")}


def test_the_contracts_are_current(history: History) -> None:
    made = data_contracts.contracts(history.manifest)
    assert made.keys() == history.tables["gold_data"].keys()
    texts = {name: data_contracts.text(document) for name, document in made.items()}
    current = {name: file.read_text() for name, file in FILES.items()}
    assert current == texts, "run: python ey_test_tech/data_contracts.py"


@pytest.mark.parametrize(("flag", "code"), [("--help", 0), ("--helpp", 2)])
def test_who_asks_how_it_is_used_changes_nothing(flag: str, code: int) -> None:
    before = {name: file.stat().st_mtime_ns for name, file in FILES.items()}
    command = [sys.executable, DBT_PROJECT / "data_contracts.py", flag]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert (done.stdout + done.stderr).startswith("usage: data_contracts.py ")
    assert {name: file.stat().st_mtime_ns for name, file in FILES.items()} == before


@pytest.mark.slow
def test_the_command_writes_what_is_there(tmp_path: Any) -> None:
    before = {name: file.read_bytes() for name, file in FILES.items()}
    command = [sys.executable, DBT_PROJECT / "data_contracts.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {name: file.read_bytes() for name, file in FILES.items()} == before
    assert done.stdout.startswith(f"wrote {len(before)} contracts")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_contract_has_the_shape_of_the_standard(name: str) -> None:
    schema = resources.files("open_data_contract_standard") / "schema.json"
    jsonschema.validate(yaml.safe_load(FILES[name].read_text()), json.loads(schema.read_text()))


def test_a_contract_says_what_the_fact_table_is() -> None:
    document = yaml.safe_load(FILES["fact_cart_items"].read_text())
    (table,) = document["schema"]
    columns = {column["name"]: column for column in table["properties"]}
    assert columns["cart_item_key"]["primaryKey"]
    assert columns["cart_item_key"]["required"]
    assert columns["cart_item_key"]["unique"]
    assert columns["product_key"]["relationships"] == [{"to": "dim_products.product_key"}]
    assert columns["quantity"]["logicalType"] == "integer"
    assert not columns["unit_price"]["required"]
    assert any("line_total = quantity * unit_price" in rule["query"] for rule in table["quality"])
    assert {"property": "currency", "value": "USD"} in document["customProperties"]
