"""Write the data contract of each gold table, from what dbt knows of it.

A contract is a document of the Open Data Contract Standard, `contracts/<table>.odcs.yaml`: columns
with types and keys, what is never null, where foreign keys lead, and the rules that a build tests.
Nothing in them is written by hand, and no warehouse is asked:

    python ey_test_tech/data_contracts.py

Exit codes: 0 written; 1 dbt cannot read the project, and says why; 2 wrong usage.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    # Ctrl-C ends this at once: dbt would make a traceback of it
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from ingestion.project import check_packages

    check_packages()

import argparse
import json
import os
import re
import tempfile
from typing import Any

import yaml

from ingestion.arguments import Parser

PROJECT = Path(__file__).resolve().parent
FOLDER = PROJECT / "contracts"
STANDARD = "v3.1.0"  # https://bitol-io.github.io/open-data-contract-standard/v3.1.0/
LOGICAL_TYPES = {
    "bool": "boolean",
    "date": "date",
    "float64": "number",
    "int64": "integer",
    "numeric": "number",
    "string": "string",
    "timestamp": "timestamp",
}

REF = re.compile(r"ref\('(\w+)'\)")
PACKAGE = "ey_test_tech"
# where the tables of production are; a reader puts the project in
SERVER = {"project": "${GCP_PROJECT_ID}", "dataset": "gold_data"}

Document = dict[str, Any]


def parsed_project() -> Document:
    """Return dbt's manifest of the project; raise RuntimeError where dbt cannot read it."""
    # it takes two seconds, which --help does not wait for
    from dbt.cli.main import dbtRunner

    before = dict(os.environ)
    # nothing is connected to, and what is generated must not follow anybody's environment
    os.environ.update(DBT_TARGET="local", DBT_DATASET_PREFIX="", GCP_PROJECT_ID="local-project")
    try:
        with tempfile.TemporaryDirectory() as folder:
            outcome = dbtRunner().invoke(
                [
                    *("--quiet", "--log-level-file", "none", "parse", "--target-path", folder),
                    *("--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)),
                ]
            )
            if not outcome.success:
                raise RuntimeError(f"dbt cannot read {PROJECT}: its lines above say why.")
            manifest: Document = json.loads((Path(folder) / "manifest.json").read_text())
            return manifest
    finally:
        os.environ.clear()
        os.environ.update(before)


def contracts(manifest: Document) -> dict[str, Document]:
    """Return the contract of each public model by the model's name."""
    nodes = manifest["nodes"].values()
    rules = {
        node["attached_node"]: node["test_metadata"]["kwargs"]
        for node in nodes
        if node.get("test_metadata", {}).get("name") == "sound"
    }
    owners = {name: group["owner"]["name"] for name, group in manifest["groups"].items()}
    return {
        node["name"]: contract(
            node, rules.get(node["unique_id"], {}), owners[f"group.{PACKAGE}.{node['group']}"]
        )
        for node in nodes
        if node["resource_type"] == "model" and node["access"] == "public"
    }


def contract(model: Document, rules: Document, owner: str) -> Document:
    """Return one model's contract; `rules` are the arguments of its test."""
    description = model["description"].strip()
    keys = [c["columns"] for c in model["constraints"] if c["type"] == "primary_key"]
    key = keys[0] if keys else rules.get("key", [])
    return {
        "apiVersion": STANDARD,
        "kind": "DataContract",
        "id": f"{PACKAGE}.{model['name']}",
        "name": model["name"],
        "version": str(model["version"] or "1.0.0"),
        "status": "active",
        "description": {"purpose": description},
        "team": {"name": owner},
        "servers": [{"server": "bigquery", "type": "bigquery"} | SERVER],
        "schema": [
            {
                "name": model["name"],
                "physicalType": "view" if model["config"]["materialized"] == "view" else "table",
                "dataGranularityDescription": re.split(r"[.,:;]", description)[0],
                "properties": [
                    property_of(column, key, rules) for column in model["columns"].values()
                ],
                "quality": quality(rules),
            }
        ],
        "customProperties": [
            {"property": name, "value": value} for name, value in model["config"]["meta"].items()
        ],
    }


def property_of(column: Document, key: list[str], rules: Document) -> Document:
    """Return what the contract says of a column of a table with this key."""
    name = column["name"]
    described: Document = {
        "name": name,
        "physicalType": column["data_type"],
        "logicalType": LOGICAL_TYPES[column["data_type"].split("(")[0]],
        "description": column["description"].strip(),
        "required": name in rules.get("never_null", [])
        or any(constraint["type"] == "not_null" for constraint in column["constraints"]),
    }
    if name in key:
        described |= {"primaryKey": True, "primaryKeyPosition": key.index(name) + 1}
        described["unique"] = len(key) == 1
    if parent := rules.get("resolves", {}).get(name):
        described["relationships"] = [{"to": REF.sub(rf"\1.{name}", parent)}]
    return described


def quality(rules: Document) -> list[Document]:
    """Return the rules that dbt tests: a count of rows that must be 0."""
    return [
        {
            "type": "sql",
            "description": rule,
            "query": f"select count(*) from ${{object}} where not coalesce({rule}, false)",  # noqa: S608, our rules
            "mustBe": 0,
        }
        for rule in rules.get("holds", [])
    ]


def text(document: Document) -> str:
    """Return a contract as its file has it."""
    body = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return f"# Made by data_contracts.py from dbt's YAML: edit that, and run it again.\n{body}"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line, which has nothing but its help."""
    return Parser(description=__doc__)


def main() -> int:
    """Replace the folder's contracts."""
    build_parser().parse_args()
    try:
        made = contracts(parsed_project())
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.glob("*.odcs.yaml"):
        stale.unlink()
    for name, document in made.items():
        (FOLDER / f"{name}.odcs.yaml").write_text(text(document))
    print(f"wrote {len(made)} contracts into {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
