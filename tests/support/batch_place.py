"""A place in Google Cloud of a test's own, and the batch stage that works on it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import batch_ingestion as batch
from tests.support.forked_stage import start_forked
from tests.support.scripted_http import ScriptedServer

RUN_ID = "22222222-2222-4222-8222-222222222222"
PRODUCTS = b"""[
 {"id":1,"title":"Caf\xc3\xa9 ","price":22,"category":"kitchen","rating":{"rate":3.9,"count":120}},
 {"id":2,"title":"Mug","price":109.95,"category":"kitchen","password":"sesame"}
]"""
USERS = b"""[{"id":7,"email":"a@b.c","username":"u","password":"sesame","address":{"city":"x"}}]"""
EXPECTED: dict[str, list[Any]] = {
    "products": [
        {
            "id": 1,
            "title": "Café ",
            "price": 22,
            "category": "kitchen",
            "rating": {"rate": 3.9, "count": 120},
        },
        {"id": 2, "title": "Mug", "price": 109.95, "category": "kitchen"},
    ],
    "users": [{"id": 7, "email": "a@b.c", "username": "u", "address": {"city": "x"}}],
}
# as BIGQUERY_EMULATOR_HOST and STORAGE_EMULATOR_HOST name them
SERVICES = ["STORAGE", "BIGQUERY"]


@dataclass
class Place:
    """A bucket, a dataset and a raw folder of a test's own, and the script that works on them."""

    gcp: Any
    store: ScriptedServer
    bucket_name: str
    dataset_id: str
    raw_dir: Path
    environment: dict[str, str]
    capsys: pytest.CaptureFixture[str]
    summary: list[dict[str, Any]]

    def arguments(self, *arguments: str) -> list[str]:
        return [
            *("--bucket-name", self.bucket_name, "--dataset-id", self.dataset_id, "--json"),
            *("--raw-dir", str(self.raw_dir), "--api-url", self.store.url, *arguments),
        ]

    def run(self, *arguments: str) -> int:
        """Run the script in this process, return its exit code and keep its summary."""
        self.capsys.readouterr()
        code = batch.main(self.arguments("--cloud-timeout", "60", *arguments))
        self.summary[:] = json.loads(self.capsys.readouterr().out)["entities"]
        return code

    def run_until(self, failpoint: str, *arguments: str) -> int:
        """Run the script as a process that kills itself at `failpoint`; return its exit code."""
        environment = {**self.environment, "FAILPOINT": failpoint}
        output = self.raw_dir.with_name("output")
        return start_forked(batch, self.arguments(*arguments), environment, output).end()

    def rows(self, table: str) -> list[dict[str, Any]]:
        sql = f"select * from `{self.gcp.project_id}.{self.dataset_id}.{table}`"
        return [dict(row) for row in self.gcp.clients.bigquery.query(sql).result()]

    def copies(self) -> dict[str, Counter[tuple[str, int]]]:
        """Count, by entity, the rows of bronze for each run and record id."""
        return {
            entity: Counter(
                (row["_run_id"], parsed(row["record"])["id"]) for row in self.rows(f"{entity}_raw")
            )
            for entity in EXPECTED
        }

    def manifest(self) -> Counter[tuple[str, str, str]]:
        return Counter(
            (row["run_id"], row["entity"], row["status"]) for row in self.rows("ingestion_runs")
        )

    def objects(self) -> dict[str, Any]:
        return {blob.name: blob for blob in self.gcp.clients.storage.list_blobs(self.bucket_name)}

    def files(self) -> list[str]:
        found = (path for path in self.raw_dir.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.raw_dir)) for path in found)


def parsed(record: Any) -> Any:
    return json.loads(record) if isinstance(record, str) else record


def one_copy(*run_ids: str) -> dict[str, Counter[tuple[str, int]]]:
    return {
        entity: Counter((run_id, record["id"]) for run_id in run_ids for record in records)
        for entity, records in EXPECTED.items()
    }


def one_row(*run_ids: str) -> Counter[tuple[str, str, str]]:
    return Counter((run_id, entity, "loaded") for run_id in run_ids for entity in EXPECTED)
