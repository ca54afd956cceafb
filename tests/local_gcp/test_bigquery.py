"""bqemulator as local_gcp/bigquery.py runs it: each gap that it closes, by BigQuery's client."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import BadRequest, Conflict, GoogleAPICallError
from google.cloud import bigquery

from local_gcp import resources
from local_gcp.resources import BUCKET_NAME
from local_gcp.servers import LocalGcp

SECONDS = 120.0


def line(run_id: str = "a", day: int = 22, **more: object) -> dict[str, object]:
    """Return one good row of products_raw."""
    return {
        "record": {"id": 1},
        "_run_id": run_id,
        "_ingested_at": f"2026-11-{day}T10:00:00Z",
        "_source_url": "https://fakestoreapi.com/products",
        **more,
    }


class Table:
    """A products_raw of one's own, and loads into it."""

    def __init__(self, gcp: LocalGcp) -> None:
        self.client = gcp.clients.bigquery
        self.folder = gcp.root / "gcs" / BUCKET_NAME
        self.dataset_id = f"strict_{uuid.uuid4().hex[:8]}"
        resources.make_bronze(gcp.clients, self.dataset_id)
        self.id = f"{gcp.project_id}.{self.dataset_id}.products_raw"

    def put(self, *lines: object) -> str:
        """Write an object and return its address."""
        name = f"{uuid.uuid4()}.json"
        text = "".join(f"{json.dumps(one)}\n" for one in lines)
        (self.folder / name).write_text(text, encoding="utf-8")
        return f"gs://{BUCKET_NAME}/{name}"

    def load(
        self, *uris: str, job_id: str | None = None, partition: str = "", **options: Any
    ) -> bigquery.LoadJob:
        """Run a load job to its end."""
        config = bigquery.LoadJobConfig(
            source_format="NEWLINE_DELIMITED_JSON", create_disposition="CREATE_NEVER", **options
        )
        job = self.client.load_table_from_uri(
            list(uris),
            self.id + partition,
            job_id=job_id or str(uuid.uuid4()),
            job_config=config,
            timeout=SECONDS,
        )
        job.result(timeout=SECONDS)
        return job

    def run_ids(self) -> list[str]:
        """Return each row's run id, sorted."""
        rows = self.client.query(f"select _run_id as run_id from `{self.id}`").result()
        return sorted(row.run_id for row in rows)


@pytest.fixture
def table(gcp: LocalGcp) -> Table:
    """An empty products_raw."""
    return Table(gcp)


def test_a_job_id_used_again_is_409_and_loads_nothing(table: Table) -> None:
    uri, job_id = table.put(line()), str(uuid.uuid4())
    table.load(uri, job_id=job_id)
    with pytest.raises(Conflict, match="Already Exists"):
        table.load(uri, job_id=job_id)
    assert table.run_ids() == ["a"]


def test_the_id_of_a_query_is_used_up_too(table: Table) -> None:
    job_id = str(uuid.uuid4())
    table.client.query("select 1", job_id=job_id, job_retry=None).result()
    with pytest.raises(Conflict):
        table.client.query("select 1", job_id=job_id, job_retry=None)


def test_a_failed_load_has_burnt_its_id(table: Table) -> None:
    job_id = str(uuid.uuid4())
    with pytest.raises(GoogleAPICallError):
        table.load(table.put(line(surplus=1)), job_id=job_id)
    with pytest.raises(Conflict):
        table.load(table.put(line()), job_id=job_id)


def test_an_unknown_field_fails_the_load_unless_it_is_to_be_ignored(table: Table) -> None:
    uri = table.put(line(surplus=1))
    with pytest.raises(BadRequest, match="No such field: surplus"):
        table.load(uri)
    assert table.run_ids() == []
    table.load(uri, ignore_unknown_values=True)
    assert table.run_ids() == ["a"]


@pytest.mark.parametrize("missing", [{"_run_id": None}, {"record": None}])
def test_a_missing_required_column_fails_the_load(table: Table, missing: dict[str, None]) -> None:
    with pytest.raises(BadRequest, match="Missing required field"):
        table.load(table.put(line(), line(**missing)))  # type: ignore[arg-type]
    assert table.run_ids() == []


def test_a_line_that_is_no_object_fails_the_load(table: Table) -> None:
    with pytest.raises(BadRequest, match="JSON parsing error"):
        table.load(table.put([line()]))


def test_a_load_of_two_files_is_whole_or_nothing(table: Table) -> None:
    table.load(table.put(line("before")))
    with pytest.raises(BadRequest):
        table.load(
            table.put(line("good")), table.put(line("bad", x=1)), write_disposition="WRITE_TRUNCATE"
        )
    assert table.run_ids() == ["before"]


def test_a_missing_object_fails_the_load(table: Table) -> None:
    with pytest.raises(GoogleAPICallError, match="Not found: URI"):
        table.load(table.put(line("good")), f"gs://{BUCKET_NAME}/nowhere.json")
    assert table.run_ids() == []


def test_the_statistics_are_those_of_the_job(table: Table) -> None:
    table.load(table.put(line("a"), line("b")))
    job = table.load(table.put(line("c")), table.put(line("d"), line("e")))
    assert (job.output_rows, job.input_files) == (3, 2)
    replaced = table.load(table.put(line("f")), write_disposition="WRITE_TRUNCATE")
    assert replaced.output_rows == 1


def test_a_partition_decorator_replaces_one_day(table: Table) -> None:
    table.load(table.put(line("old 21", day=21), line("old 22", day=22)))
    table.load(
        table.put(line("new 22", day=22)), partition="$20261122", write_disposition="WRITE_TRUNCATE"
    )
    assert table.run_ids() == ["new 22", "old 21"]


def test_numeric_keeps_nine_decimals(gcp: LocalGcp) -> None:
    sql = "select cast('1.123456789' as numeric) as amount"
    assert next(iter(gcp.clients.bigquery.query(sql).result())).amount == Decimal("1.123456789")


def test_bronze_is_created_with_its_partitions_and_clusters(gcp: LocalGcp, table: Table) -> None:
    made = gcp.clients.bigquery.get_table(table.id)
    assert made.time_partitioning.field == "_ingested_at"
    assert made.clustering_fields == ["_run_id"]
    assert [field.mode for field in made.schema] == ["REQUIRED"] * 4


def test_a_loaded_time_is_what_was_written(table: Table) -> None:
    table.load(table.put(line()))
    row = next(iter(table.client.query(f"select * from `{table.id}`").result()))
    assert row["_ingested_at"] == datetime(2026, 11, 22, 10, tzinfo=UTC)
    assert row["record"] == {"id": 1}


def test_the_spatial_extension_is_in_its_package() -> None:
    import duckdb
    import duckdb_extension_spatial

    folder = Path(duckdb_extension_spatial.__path__[0]) / "extensions"
    assert [one.name for one in folder.iterdir()] == [f"v{duckdb.__version__}"]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2026-01-01T00:00:00.123456Z", datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-01T00:00:00.1234567Z", None),
        ("2026-01-01T00:00:00+14:00", datetime(2025, 12, 31, 10, tzinfo=UTC)),
        ("2026-01-01T00:00:00+14:01", None),
        ("2026-01-01T00:00:00-15:00", None),
        ("2026-01-01T00:00:00.Z", None),
        ("2026-01-01T00:00:00 +02", None),
        ("2026-01-01+02", None),
        ("2026-01-01 00:00:00 UTC", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-1-2", datetime(2026, 1, 2, tzinfo=UTC)),
        ("0001-01-01T00:00:00+01:00", None),
        ("9999-12-31T23:59:59-01:00", None),
        ("infinity", None),
        ("soon", None),
    ],
)
def test_a_timestamp_that_bigquery_cannot_read_is_null(
    gcp: LocalGcp, text: str, read: datetime | None
) -> None:
    sql = f"select safe_cast(text as timestamp) as moment from (select '{text}' as text)"
    job = gcp.clients.bigquery.query(sql, retry=None, timeout=SECONDS, job_retry=None)
    [row] = job.result(retry=None, timeout=SECONDS)
    assert row["moment"] == read
