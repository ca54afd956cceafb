"""One dataset, one API: the records of another would be taken for the next version of the first's.

The newest run in the manifest is looked up, and in its rows the address that answered it: two
queries that read a day each. A run is compared before it asks the API; what was landed without
having been compared, before it is loaded.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ingestion.batch.entities import ENTITIES
from ingestion.settings import ConfigurationError
from ingestion.source import public_url

if TYPE_CHECKING:
    from ingestion.batch.bronze import Bronze

END_OF_TIME = datetime(9999, 12, 31, tzinfo=UTC)

log = logging.getLogger(__name__)


def check_source(api_url: str, bronze: Bronze) -> None:
    """Raise ConfigurationError where the dataset was filled from another API than this one.

    Where BigQuery cannot be asked, what is read is compared before it is loaded.
    """
    from ingestion.batch.google_calls import Rejected, Unavailable

    new = public_url(api_url).rstrip("/")
    try:
        old = other_source(new, bronze)
    except (Rejected, Unavailable) as error:
        log.info("the source is not compared yet: %s", error)
        return
    if old:
        raise ConfigurationError(
            f"{bronze.dataset_id} was filled from {old}, and this run would read {new}: give "
            f"--api-url {old} or another --dataset-id, or --new-source to go on with {new}."
        )
    bronze.compared.add(new)


def source_of(entity: str, source_url: str) -> str:
    """Return the address of the API of which an address of an entity's is made."""
    return source_url.removesuffix(ENTITIES[entity].path)


def other_source(new: str, bronze: Bronze, until: datetime = END_OF_TIME) -> str | None:
    """Return the API of the newest run in bronze up to a time, if it is another than `new`."""
    if bronze.accepts_new_source or new in bronze.compared:
        return None
    old = _newest_source(bronze, until)
    return old if old and _place_of(old) != _place_of(new) else None


def _place_of(url: str) -> tuple[str, str]:
    # not the scheme: a store that changes to https is the same store
    parts = urlsplit(url)
    return parts.netloc.lower(), parts.path.rstrip("/")


def _newest_source(bronze: Bronze, until: datetime) -> str | None:
    from ingestion.batch.google_calls import ask
    from ingestion.batch.load import MANIFEST_TABLE

    dataset = f"{bronze.bigquery.project}.{bronze.dataset_id}"
    newest_run = f"""
        select entity, run_id, started_at from `{dataset}.{MANIFEST_TABLE}`
        where
            status = 'loaded'
            and entity in ('{"', '".join(ENTITIES)}')
            and started_at <= @until
        order by started_at desc, entity, run_id
        limit 1
    """  # noqa: S608
    for run in ask(bronze.bigquery, newest_run, bronze.limits, until=until):
        address = f"""
            select _source_url from `{dataset}.{run["entity"]}_raw`
            where _ingested_at = @started_at and _run_id = @run_id
            limit 1
        """  # noqa: S608
        values = {"started_at": run["started_at"], "run_id": run["run_id"]}
        for row in ask(bronze.bigquery, address, bronze.limits, **values):
            return source_of(run["entity"], row["_source_url"])
    return None
