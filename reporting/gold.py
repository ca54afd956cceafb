"""Reads what the report shows from the gold tables, through BigQuery's client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from reporting.parts import PARTS, Part

if TYPE_CHECKING:
    from google.cloud import bigquery

QUERY_TIMEOUT_SECONDS = 30.0

Row = Mapping[str, Any]


class ReportError(Exception):
    """Gold could not be read, told in one sentence; the script ends with exit code 1."""


@dataclass(frozen=True)
class Gold:
    """The rows of each gold table that the page shows, by the table's name."""

    rows: Mapping[str, Sequence[Row]]
    # when the oldest of these tables was written, in UTC
    built_at: datetime


def read_gold(client: bigquery.Client, dataset_id: str) -> Gold:
    """Return gold as it is now.

    Raises ReportError where a table is missing, access is denied or BigQuery does not answer.
    """
    rows, built_at = {}, []
    for part in PARTS:
        table_id = f"{client.project}.{dataset_id}.{part.name}"
        read, modified = read_table(client, table_id, part.order_by)
        rows[part.name] = [columns_of(part, row, table_id) for row in read]
        built_at.append(modified)
    return Gold(rows, min(built_at))


def columns_of(part: Part, row: Row, table_id: str) -> Row:
    """Return the columns that the page shows; ReportError where gold has not all of them."""
    missing = [column.name for column in part.columns if column.name not in row]
    if missing:
        raise ReportError(
            f"Gold table {table_id} has no column {missing[0]}: it is older than this report; run "
            "dbt build in ey_test_tech/."
        )
    return {column.name: row[column.name] for column in part.columns}


def read_table(
    client: bigquery.Client, table_id: str, order_by: str
) -> tuple[list[dict[str, Any]], datetime]:
    """Return the rows of a table, and when it was last written; raises ReportError."""
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound
    from google.api_core.retry import Retry
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    bounds: dict[str, Any] = {
        "retry": Retry(timeout=QUERY_TIMEOUT_SECONDS),
        "timeout": QUERY_TIMEOUT_SECONDS,
    }
    query = f"select * from `{table_id}` order by {order_by}"  # noqa: S608, our names
    try:
        job = client.query(query, job_retry=None, **bounds)
        rows = [dict(row) for row in job.result(job_retry=None, **bounds)]
        return rows, client.get_table(table_id, **bounds).modified
    except NotFound as error:
        raise ReportError(
            f"Gold table {table_id} does not exist: check --project-id and GCP_REGION, then run "
            "dbt build in ey_test_tech/; where that failed before, its last lines say why."
        ) from error
    except Forbidden as error:
        raise ReportError(
            f"No permission to read {table_id}: grant roles/bigquery.dataViewer on the dataset "
            "and roles/bigquery.jobUser on the project."
        ) from error
    except GoogleAuthError as error:
        raise ReportError(
            "Google did not take the credentials: renew the key, or log in again; see "
            "Credentials in docs/operating.md."
        ) from error
    except (GoogleAPIError, RequestException, TimeoutError) as error:
        raise ReportError(
            f"BigQuery did not give {table_id}: {type(error).__name__}; try again later."
        ) from error
