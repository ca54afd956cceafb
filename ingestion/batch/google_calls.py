"""Calls to Google that end: bounded in time, and with two exceptions instead of forty.

Google's clients wait for minutes, or for ever, where nothing answers. Here each call is given
`Limits.seconds` for an answer and as long again for retries, then Unavailable is raised.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import google.auth.exceptions
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY as BIGQUERY_RETRY
from google.cloud.storage.retry import DEFAULT_RETRY as STORAGE_RETRY

from ingestion.google_outages import BYTES_PER_SECOND, OUTAGES

# a load job of a gigabyte ends in about a minute, but may queue
JOB_SECONDS = 600.0
JOB_POLL_SECONDS = (0.2, 4.0)


class Unavailable(Exception):  # noqa: N818
    """A service did not answer within its limits: the step waits, and is finished later."""


class Rejected(Exception):  # noqa: N818
    """A service answered that it will not do it: somebody has to correct something first."""


@dataclass(frozen=True)
class Limits:
    """How long to wait for Google: `seconds` for one answer, and as long for all retries."""

    seconds: float

    def of_storage(self, size: int = 0) -> dict[str, Any]:
        """Return the bounds for a call to Cloud Storage that moves `size` bytes."""
        return self._bounds(STORAGE_RETRY, self.seconds + size / BYTES_PER_SECOND)

    def of_bigquery(self) -> dict[str, Any]:
        """Return the bounds for a call to BigQuery."""
        return self._bounds(BIGQUERY_RETRY, self.seconds)

    def _bounds(self, retry: Retry, timeout: float) -> dict[str, Any]:
        return {"retry": retry.with_timeout(self.seconds), "timeout": timeout}


@contextmanager
def calling(service: str) -> Iterator[None]:
    """Turn the exceptions of Google's clients into Unavailable and Rejected."""
    try:
        yield
    except OUTAGES as error:
        cause = getattr(error, "cause", None) or error
        raise Unavailable(f"{service} could not be reached ({type(cause).__name__})") from None
    except exceptions.GoogleAPICallError as error:
        raise Rejected(f"{service} refused: {error.message}") from None
    except google.auth.exceptions.GoogleAuthError as error:
        raise Rejected(f"{service} was not asked, the credentials fail: {error}") from None


def wait_for(job: Any, limits: Limits) -> None:
    """Wait until a job of BigQuery's has ended, well or not."""
    deadline = time.monotonic() + JOB_SECONDS
    pause, longest = JOB_POLL_SECONDS
    while not job.done(**limits.of_bigquery()):
        if time.monotonic() > deadline:
            raise Unavailable(f"BigQuery has not ended job {job.job_id} in {JOB_SECONDS:g} s")
        time.sleep(pause)
        pause = min(2 * pause, longest)


def ask(
    client: bigquery.Client, sql: str, limits: Limits, **values: str | datetime
) -> list[dict[str, Any]]:
    """Return the rows of a query, with the values of its `@name`s."""
    parameters = [
        bigquery.ScalarQueryParameter(
            name, "TIMESTAMP" if isinstance(value, datetime) else "STRING", value
        )
        for name, value in values.items()
    ]
    config = bigquery.QueryJobConfig(query_parameters=parameters)
    bounds = {**limits.of_bigquery(), "job_retry": None}
    with calling("BigQuery"):
        job = client.query(sql, job_config=config, location=client.location, **bounds)
        wait_for(job, limits)
        return [dict(row) for row in job.result(**bounds)]
