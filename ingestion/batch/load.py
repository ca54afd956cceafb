"""From Cloud Storage to bronze: one load job per object, and its row in the manifest.

Each step may be repeated, by this process or by another one after a kill or a lost answer:

    load_once     the load job's id is derived from entity and run id; BigQuery answers 409 to
                  its repetition, and the first job is taken up
    record_once   the row of `ingestion_runs` is a job with a derived id too

BigQuery keeps a job's id for longer than a table need live: of a job that is taken up the table
is asked whether it holds what the job wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.api_core import exceptions
from google.cloud import bigquery

from ingestion.batch.google_calls import Limits, Rejected, Unavailable, ask, calling, wait_for
from ingestion.batch.receipts import Landing
from ingestion.durable_files import failpoint
from ingestion.project import SCHEMA_FOLDER

MANIFEST_TABLE = "ingestion_runs"

# reasons of failed jobs that are BigQuery's, not the data's:
# https://cloud.google.com/bigquery/docs/error-messages
PASSING_REASONS = frozenset(
    {
        "backendError",
        "internalError",
        "jobBackendError",
        "jobInternalError",
        "jobRateLimitExceeded",
        "quotaExceeded",
        "rateLimitExceeded",
        "tableUnavailable",
    }
)


def job_id(dataset_id: str, landing: Landing) -> str:
    """Return the id of a landing's load job, the same in every attempt."""
    return f"batch-{dataset_id}-{landing.entity}-{landing.run_id}"


def load_once(
    client: bigquery.Client, dataset_id: str, landing: Landing, uri: str, limits: Limits
) -> bigquery.LoadJob:
    """Append the object at `uri` to the entity's bronze table and return the ended job."""
    table = f"{client.project}.{dataset_id}.{landing.entity}_raw"
    config = bigquery.LoadJobConfig(
        source_format=bigquery.SourceFormat.NEWLINE_DELIMITED_JSON,
        schema=client.schema_from_json(str(SCHEMA_FOLDER / f"{landing.entity}_raw.json")),
        create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
        write_disposition=bigquery.WriteDisposition.WRITE_APPEND,
    )

    def start(name: str) -> Any:
        return client.load_table_from_uri(
            uri,
            table,
            job_id=name,
            location=client.location,
            job_config=config,
            **limits.of_bigquery(),
        )

    def is_held() -> bool:
        # the table insists on a filter of days, and is clustered by run
        sql = f"""
            select count(*) as records from `{table}`
            where _ingested_at >= timestamp '1970-01-01' and _run_id = @run_id
        """  # noqa: S608
        found = ask(client, sql, limits, run_id=landing.run_id)
        return landing.records == 0 or found[0]["records"] > 0

    name = job_id(dataset_id, landing)
    job: bigquery.LoadJob = _run_once(client, name, start, is_held, limits)
    failpoint("object-loaded")
    return job


def manifest_row(landing: Landing, uri: str, load_job: bigquery.LoadJob) -> dict[str, Any]:
    """Return the row of `ingestion_runs` for a landing that `load_job` has loaded."""
    row: dict[str, Any] = {
        "run_id": landing.run_id,
        "entity": landing.entity,
        "object": uri,
        "records": landing.records,
        "quarantined": landing.quarantined,
        "bytes": landing.bytes,
        "crc32c": landing.crc32c,
        "job_id": load_job.job_id,
        "started_at": landing.ingested_at,
        "finished_at": load_job.ended or datetime.now(UTC),
        "status": "loaded",
    }
    if landing.replayed_run_id:  # else unnamed: a table made before this column takes the row too
        row["replayed_run_id"] = landing.replayed_run_id
    return row


def record_once(
    client: bigquery.Client,
    dataset_id: str,
    landing: Landing,
    uri: str,
    load_job: bigquery.LoadJob,
    limits: Limits,
) -> None:
    """Insert the row of `ingestion_runs` that says that `load_job` has loaded the object."""
    row = manifest_row(landing, uri, load_job)
    schema = client.schema_from_json(str(SCHEMA_FOLDER / f"{MANIFEST_TABLE}.json"))
    config = bigquery.QueryJobConfig(
        query_parameters=[
            bigquery.ScalarQueryParameter(
                field.name,
                # the parameters of queries have the names of standard SQL
                "INT64" if field.field_type == "INTEGER" else field.field_type,
                row[field.name],
            )
            for field in schema
            if field.name in row
        ]
    )
    table = f"{client.project}.{dataset_id}.{MANIFEST_TABLE}"
    # a query, not an upload of one line: of its job id too BigQuery makes sure
    sql = (
        f"insert into `{table}` ({', '.join(row)}) "  # noqa: S608
        f"values ({', '.join('@' + column for column in row)})"
    )

    def start(name: str) -> Any:
        return client.query(
            sql,
            job_id=name,
            location=client.location,
            job_config=config,
            job_retry=None,
            **limits.of_bigquery(),
        )

    def is_held() -> bool:
        condition = "run_id = @run_id and entity = @entity"
        sql = f"select count(*) as records from `{table}` where {condition}"  # noqa: S608
        found = ask(client, sql, limits, run_id=landing.run_id, entity=landing.entity)
        return bool(found[0]["records"])

    _run_once(client, f"{job_id(dataset_id, landing)}-manifest", start, is_held, limits)
    failpoint("run-recorded")


def offending_line(file: Path, message: str) -> int | None:
    """Return the line, from 1, of the byte position that BigQuery names in a load's error."""
    match = re.search(r"starting at position (\d+)", message)
    if not match or not file.exists():
        return None
    position = int(match[1])
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            position -= len(line)
            if position < 0:
                return number
    return None


def _run_once(
    client: bigquery.Client,
    first_id: str,
    start: Callable[[str], Any],
    is_held: Callable[[], bool],
    limits: Limits,
) -> Any:
    """Start the job `first_id`, or take up the one of that id, and return it when it has ended.

    A job that failed earlier has burnt its id, and so has one whose rows the table does not hold,
    as after it was made anew: the next generation of the id is tried.
    """
    name, generation, is_ours = first_id, 1, True
    while True:
        with calling("BigQuery"):
            try:
                job = start(name)
            except exceptions.Conflict:
                is_ours = False
                job = client.get_job(name, location=client.location, **limits.of_bigquery())
            failpoint("job-started")
            wait_for(job, limits)
            if not job.error_result and (is_ours or is_held()):
                return job
        if is_ours:
            may_pass = job.error_result.get("reason") in PASSING_REASONS
            raise (Unavailable if may_pass else Rejected)(
                f"BigQuery failed job {name}: {_errors(job)}"
            )
        generation += 1
        name, is_ours = f"{first_id}-{generation}", True


def _errors(job: Any) -> str:
    errors = job.errors or [job.error_result]
    return " | ".join(str(error.get("message")) for error in errors[:3])
