"""From the raw zone on the local disk to Cloud Storage and bronze, each step exactly once.

Every step may be repeated, by this process or by another one after a kill or a lost answer:

    upload_once   an object is created, never replaced; one with our checksum is ours
    load_once     the load job's id is derived from entity and run id; BigQuery answers 409 to
                  its repetition, and the first job is taken up
    record_once   the row of `ingestion_runs` is a job with a derived id too

Google's clients wait for minutes, or for ever, where nothing answers. Here each call is given
`Limits.seconds` for an answer and as long again for retries, then Unreachable is raised.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import google.auth.exceptions
import msgspec
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY as BIGQUERY_RETRY
from google.cloud.storage import Blob, Bucket
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY as STORAGE_RETRY

from ingestion.batch.landing import Landing, crc32c_of
from ingestion.durable_files import failpoint
from ingestion.project import SCHEMA_FOLDER

MANIFEST_TABLE = "ingestion_runs"

# the client holds a chunk of a large upload in memory; its own default is 100 MB
UPLOAD_CHUNK_BYTES = 1 << 24
# an upload is given a second more for each so many bytes
UPLOAD_BYTES_PER_SECOND = 10_000_000
# a load job of a gigabyte ends in about a minute, but may queue
JOB_SECONDS = 600.0
JOB_POLL_SECONDS = (0.2, 4.0)
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
OUTAGES = (
    ConnectionError,
    requests.ConnectionError,
    requests.Timeout,
    google.auth.exceptions.TransportError,
    exceptions.RetryError,
    exceptions.ServerError,
    exceptions.TooManyRequests,
    # the bytes that arrived are not those that were sent
    DataCorruption,
)


class Unreachable(Exception):  # noqa: N818
    """A service did not answer within its limits: the step waits, and is finished later."""


class Refused(Exception):  # noqa: N818
    """A service answered that it will not do it: somebody has to correct something first."""


@dataclass(frozen=True)
class Limits:
    """How long to wait for Google: `seconds` for one answer, and as long for all retries."""

    seconds: float

    def of_storage(self, size: int = 0) -> dict[str, Any]:
        """Return the bounds for a call to Cloud Storage that sends `size` bytes."""
        return self._bounds(STORAGE_RETRY, self.seconds + size / UPLOAD_BYTES_PER_SECOND)

    def of_bigquery(self) -> dict[str, Any]:
        """Return the bounds for a call to BigQuery."""
        return self._bounds(BIGQUERY_RETRY, self.seconds)

    def _bounds(self, retry: Retry, timeout: float) -> dict[str, Any]:
        return {"retry": retry.with_timeout(self.seconds), "timeout": timeout}


def job_id(dataset_id: str, landing: Landing) -> str:
    """Return the id of a landing's load job, the same in every attempt."""
    return f"batch-{dataset_id}-{landing.entity}-{landing.run_id}"


def find_uploaded(bucket: Bucket, entity: str, run_id: str, limits: Limits) -> Landing | None:
    """Return what a run of this id has uploaded already, perhaps from another machine."""
    ending = f"/run_id={run_id}/data.json"
    with _reaching("Cloud Storage"):
        blobs = bucket.list_blobs(
            prefix=f"raw/{entity}/",
            match_glob=f"raw/{entity}/date=*{ending}",
            **limits.of_storage(),
        )
        for blob in blobs:
            if not blob.name.endswith(ending):
                continue  # an emulator may not know match_glob
            receipt = (blob.metadata or {}).get("receipt")
            landing = msgspec.json.decode(receipt, type=Landing) if receipt else None
            if landing is None or landing.crc32c != blob.crc32c:
                raise Refused(f"gs://{bucket.name}/{blob.name} is not what a run has landed")
            return landing
    return None


def upload_once(
    bucket: Bucket, landing: Landing, raw_dir: Path, limits: Limits
) -> tuple[Landing, str]:
    """Create the objects of `landing`, its quarantine first; return what is there, and where.

    What a run of this id uploaded first stays, even if it read another answer.
    """
    uploaded = find_uploaded(bucket, landing.entity, landing.run_id, limits)
    if not uploaded:
        file = raw_dir / landing.data_path
        if not file.exists() or crc32c_of(file) != landing.crc32c:
            raise Refused(f"{file} is not what was landed, and is not uploaded")
        if landing.quarantined:
            _create_once(bucket, landing.quarantine_path, landing, raw_dir, limits)
        created = _create_once(bucket, landing.data_path, landing, raw_dir, limits)
        if created.crc32c != landing.crc32c:
            raise Refused(f"gs://{bucket.name}/{created.name} holds something else")
        uploaded = landing
    failpoint("object-uploaded")
    return uploaded, f"gs://{bucket.name}/raw/{uploaded.data_path}"


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

    job: bigquery.LoadJob = _run_once(client, job_id(dataset_id, landing), start, limits)
    failpoint("object-loaded")
    return job


def record_once(
    client: bigquery.Client,
    dataset_id: str,
    landing: Landing,
    uri: str,
    load_job: bigquery.LoadJob,
    limits: Limits,
) -> None:
    """Insert the row of `ingestion_runs` that says that `load_job` has loaded the object."""
    row = {
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
    schema = client.schema_from_json(str(SCHEMA_FOLDER / f"{MANIFEST_TABLE}.json"))
    columns = [field.name for field in schema]
    config = bigquery.QueryJobConfig(
        query_parameters=[
            bigquery.ScalarQueryParameter(
                field.name,
                # the parameters of queries have the names of standard SQL
                "INT64" if field.field_type == "INTEGER" else field.field_type,
                row[field.name],
            )
            for field in schema
        ]
    )
    # a query, not an upload of one line: of its job id too BigQuery makes sure
    sql = (
        f"insert into `{client.project}.{dataset_id}.{MANIFEST_TABLE}` ({', '.join(columns)}) "  # noqa: S608
        f"values ({', '.join('@' + column for column in columns)})"
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

    _run_once(client, f"{job_id(dataset_id, landing)}-manifest", start, limits)
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


def _create_once(
    bucket: Bucket, path: str, landing: Landing, raw_dir: Path, limits: Limits
) -> Blob:
    file = raw_dir / path
    size = file.stat().st_size
    chunk_bytes = UPLOAD_CHUNK_BYTES if size > UPLOAD_CHUNK_BYTES else None
    blob = bucket.blob(f"raw/{path}", chunk_size=chunk_bytes)
    # the receipt travels with the object, so that any machine can finish the run
    blob.metadata = {"receipt": msgspec.json.encode(landing).decode()}
    with _reaching("Cloud Storage"):
        try:
            blob.upload_from_filename(
                file,
                content_type="application/x-ndjson",
                if_generation_match=0,
                checksum="crc32c",
                **limits.of_storage(size),
            )
        except exceptions.PreconditionFailed:
            # an attempt whose answer was lost has created it
            blob.reload(**limits.of_storage())
    return blob


def _run_once(
    client: bigquery.Client, first_id: str, start: Callable[[str], Any], limits: Limits
) -> Any:
    """Start the job `first_id`, or take up the one of that id, and return it when it has ended.

    A job that failed earlier has burnt its id: the next generation of it is tried.
    """
    name, generation, is_ours = first_id, 1, True
    while True:
        with _reaching("BigQuery"):
            try:
                job = start(name)
            except exceptions.Conflict:
                is_ours = False
                job = client.get_job(name, location=client.location, **limits.of_bigquery())
            failpoint("job-started")
            _wait(job, limits)
        if not job.error_result:
            return job
        if is_ours:
            may_pass = job.error_result.get("reason") in PASSING_REASONS
            raise (Unreachable if may_pass else Refused)(
                f"BigQuery failed job {name}: {_errors(job)}"
            )
        generation += 1
        name, is_ours = f"{first_id}-{generation}", True


def _wait(job: Any, limits: Limits) -> None:
    deadline = time.monotonic() + JOB_SECONDS
    pause, longest = JOB_POLL_SECONDS
    while not job.done(**limits.of_bigquery()):
        if time.monotonic() > deadline:
            raise Unreachable(f"BigQuery has not ended job {job.job_id} in {JOB_SECONDS:g} s")
        time.sleep(pause)
        pause = min(2 * pause, longest)


def _errors(job: Any) -> str:
    errors = job.errors or [job.error_result]
    return " | ".join(str(error.get("message")) for error in errors[:3])


@contextmanager
def _reaching(service: str) -> Iterator[None]:
    """Turn the exceptions of Google's clients into Unreachable and Refused."""
    try:
        yield
    except OUTAGES as error:
        cause = getattr(error, "cause", None) or error
        raise Unreachable(f"{service} could not be reached ({type(cause).__name__})") from None
    except exceptions.GoogleAPICallError as error:
        raise Refused(f"{service} refused: {error.message}") from None
    except google.auth.exceptions.GoogleAuthError as error:
        raise Refused(f"{service} was not asked, the credentials fail: {error}") from None
