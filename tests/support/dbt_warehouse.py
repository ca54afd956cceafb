"""A BigQuery project of its own on the local GCP, with bronze tables, and dbt run in process."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest
from dbt.tracking import User
from dbt_common.behavior_flags import BehaviorFlagRendered
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery, storage

from ingestion.project import PROJECT_FOLDER, SCHEMA_FOLDER
from tests.support.bigquery_target import Job, recorded_jobs, write_profile

DBT_PROJECT = PROJECT_FOLDER / "ey_test_tech"
PARTITION_COLUMNS = {
    "products_raw": "_ingested_at",
    "users_raw": "_ingested_at",
    "carts_raw": "_ingested_at",
    "carts_events_raw": "publish_time",
    "ingestion_runs": "started_at",
}
TIMEOUT_SECONDS = 300.0
BEGAN_AT = dt.datetime.now(dt.UTC)

Row = dict[str, Any]


class Began(User):
    """Whoever runs dbt, who has begun when these tests did."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.run_started_at = BEGAN_AT


class DbtError(AssertionError):
    """A dbt invocation did not succeed; the message lists the nodes and their errors."""


class Warehouse:
    """Bronze, silver and gold of one project.

    With the target `bigquery` dbt asks what it would ask BigQuery. `jobs` has the query jobs of the
    last dbt run, whether it succeeded or not.
    """

    def __init__(
        self, environment: dict[str, str], project_id: str, folder: Path, target: str = "local"
    ) -> None:
        self.project_id = project_id
        self.folder = folder
        self.environment = environment | {
            "GCP_PROJECT_ID": project_id,
            "BQ_DATASET": "bronze_data",
            "DBT_TARGET": target,
        }
        self.jobs: list[Job] = []
        # the project as the first dbt has read it
        self.manifest: Manifest | None = None
        write_profile(DBT_PROJECT, folder, environment["BIGQUERY_EMULATOR_HOST"])
        self.client = bigquery.Client(
            project=project_id,
            location=environment["GCP_REGION"],
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": environment["BIGQUERY_EMULATOR_HOST"]},
        )
        self.bucket = storage.Client(
            project=project_id,
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": environment["STORAGE_EMULATOR_HOST"]},
        ).bucket(f"{project_id}-rows")
        self.bucket.create()

    def empty(self) -> None:
        """Drop everything and make the bronze tables of Terraform's schema files anew."""
        for name in ("bronze_data", "silver_data", "gold_data"):
            self.client.delete_dataset(name, delete_contents=True, not_found_ok=True)
            self.client.create_dataset(name)
        for name, partition_column in PARTITION_COLUMNS.items():
            table = bigquery.Table(
                f"{self.project_id}.bronze_data.{name}", schema=self.schema_of(name)
            )
            table.time_partitioning = bigquery.TimePartitioning(field=partition_column)
            self.client.create_table(table)

    def schema_of(self, bronze_table: str) -> list[bigquery.SchemaField]:
        """Return the columns of a bronze table."""
        return self.client.schema_from_json(str(SCHEMA_FOLDER / f"{bronze_table}.json"))

    def load(self, bronze_table: str, rows: Iterable[Row]) -> None:
        """Append rows by a load job, as the pipeline does."""
        blob = self.bucket.blob(f"{uuid.uuid4()}.json")
        blob.upload_from_string("\n".join(json.dumps(row) for row in rows))
        self.client.load_table_from_uri(
            f"gs://{self.bucket.name}/{blob.name}",
            f"{self.project_id}.bronze_data.{bronze_table}",
            job_config=bigquery.LoadJobConfig(
                source_format="NEWLINE_DELIMITED_JSON", schema=self.schema_of(bronze_table)
            ),
            timeout=TIMEOUT_SECONDS,
        ).result(timeout=TIMEOUT_SECONDS)

    def load_all(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Append (bronze table, row) pairs."""
        by_table: dict[str, list[Row]] = defaultdict(list)
        for bronze_table, row in rows:
            by_table[bronze_table].append(row)
        for bronze_table, of_table in by_table.items():
            self.load(bronze_table, of_table)

    def rows(self, query: str) -> list[Row]:
        """Return the rows of a query."""
        job = self.client.query(query, timeout=TIMEOUT_SECONDS)
        return [dict(row) for row in job.result(timeout=TIMEOUT_SECONDS)]

    def table(self, name: str) -> list[Row]:
        """Return all rows of `dataset.table`."""
        return self.rows(f"select * from `{self.project_id}`.{name}")

    def tables(self, dataset: str) -> dict[str, list[Row]]:
        """Return all rows of all tables and views of a dataset."""
        names = sorted(table.table_id for table in self.client.list_tables(dataset))
        return {name: self.table(f"{dataset}.{name}") for name in names}

    def dbt(
        self, *arguments: str, before_statement: Callable[[str], None] = lambda _: None
    ) -> list[str]:
        """Run dbt on this project; return the SQL statements it sent, in their order.

        `before_statement` is called with each statement before it is sent: what it does happens
        between two statements of this dbt.
        """
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            with (
                recorded_jobs(before_statement) as self.jobs,
                patch("dbt.tracking.User", Began),
                # where dbt asks for each of its flags, which reads the whole stack's source
                patch.object(BehaviorFlagRendered, "_default_source", lambda _: "dbt"),
            ):
                if self.manifest is None:
                    parsed = dbtRunner().invoke(self._command("parse", target=self.folder))
                    if not isinstance(parsed.result, Manifest):
                        raise DbtError(str(parsed.exception))
                    self.manifest = parsed.result
                command = self._command(*arguments, "--no-write-json", target=self.folder)
                outcome = dbtRunner(self.manifest).invoke(command)
        finally:
            os.environ.clear()
            os.environ.update(before)
        if not outcome.success:
            problems = [
                f"{result.node.name}: {result.status} {result.message}"
                for result in getattr(outcome.result, "results", [])
                if result.status in ("error", "fail", "runtime error")
            ]
            raise DbtError("\n".join(problems) or str(outcome.exception))
        return [job.sql for job in self.jobs]

    def other_dbt(self, *arguments: str) -> None:
        """Run another dbt to its end, in a process of its own as another machine would."""
        other = self.folder / "other"
        other.mkdir(exist_ok=True)
        # what this one has read of the project, so that it need not be read again
        shutil.copy(self.folder / "partial_parse.msgpack", other)
        finished = subprocess.run(
            [
                *(sys.executable, "-m", "dbt.cli.main"),
                *self._command(*arguments, target=other),
            ],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if finished.returncode:
            raise DbtError(finished.stdout)

    def _command(self, *arguments: str, target: Path) -> list[str]:
        return [
            *("--quiet", "--no-use-colors", "--log-level-file", "none"),
            *arguments,
            *("--project-dir", str(DBT_PROJECT), "--profiles-dir", str(self.folder)),
            *("--target-path", str(target)),
        ]


def comparable(rows: Iterable[Row]) -> list[tuple[tuple[str, Any], ...]]:
    """Return rows in an order of their own, with columns by name, for whole-table equality."""
    return sorted((tuple(sorted(row.items())) for row in rows), key=repr)


def today() -> dt.date:
    """Return the date, UTC, that is today to each dbt here, though midnight may pass meanwhile."""
    return BEGAN_AT.date()
