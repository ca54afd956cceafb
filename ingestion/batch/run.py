"""One run: each entity from the API to the raw folder and on to bronze, side by side."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from ingestion.batch.bronze import Bronze, load_landing
from ingestion.batch.entities import ENTITIES
from ingestion.batch.landing import Reading, land, timestamp
from ingestion.batch.progress import Progress, showing_progress
from ingestion.batch.receipts import Landing, LandingError, read_receipt, write_receipt
from ingestion.batch.run_lock import remove_traces_of_killed_runs, sole_run
from ingestion.batch.summary import Outcome, outcome_of
from ingestion.json_array import BadAnswer
from ingestion.records import check_records, split_plainly
from ingestion.source import (
    TIMEOUT,
    USER_AGENT,
    Answer,
    FetchFailed,
    fetch,
    open_session,
    public_url,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where the records come from."""

    api_url: str
    user_agent: str = USER_AGENT
    timeout: tuple[float, float] = TIMEOUT


@dataclass(frozen=True)
class Run:
    """One run: its id, where its records come from and go to; no `bronze` with --local-only."""

    run_id: str
    source: Source
    raw_dir: Path
    bronze: Bronze | None
    is_rerun: bool


def run_entities(names: Sequence[str], run: Run) -> list[Outcome]:
    """Bring the entities to their end side by side; one's failure leaves the others alone."""
    log.info("started run_id=%s entities=%s", run.run_id, ",".join(names))
    remove_traces_of_killed_runs(run.raw_dir)
    pool = ThreadPoolExecutor(len(names))
    try:
        with sole_run(run.raw_dir, run.run_id), showing_progress(names) as progress:
            return list(pool.map(lambda name: run_entity(name, run, progress), names))
    finally:
        # only after an interruption is there something to wait for, and nothing to gain by it
        pool.shutdown(wait=False, cancel_futures=True)


def run_entity(name: str, run: Run, progress: Progress) -> Outcome:
    """Bring one entity from the API, or from where an earlier attempt has got, to its end."""
    started = time.monotonic()
    try:
        landing = find_landing(name, run) if run.is_rerun else None
        if landing is None:
            landing = extract(name, run, progress)
        if run.bronze:
            outcome = load_landing(landing, run.raw_dir, run.bronze, progress)
        else:
            outcome = outcome_of(landing, "done", str(run.raw_dir / landing.data_path))
    except (FetchFailed, BadAnswer) as error:
        message = f"{error} Nothing of it is kept: mend this, or run again later"
        outcome = Outcome(name, run.run_id, "failed", message=message)
    except LandingError as error:
        outcome = Outcome(name, run.run_id, "failed", message=str(error))
    except OSError as error:
        message = f"{error}. Correct this and finish with the same command and "
        outcome = Outcome(name, run.run_id, "failed", message=f"{message}--run-id {run.run_id}")
    return finished(outcome, started, progress)


def find_landing(name: str, run: Run) -> Landing | None:
    """Return what a run of this id has landed before, here or in the bucket."""
    landing = read_receipt(run.raw_dir, run.run_id, name)
    if run.bronze is None:
        return landing
    if landing is None:
        from ingestion.batch.google_calls import Rejected, Unavailable
        from ingestion.batch.upload import find_uploaded

        try:
            landing = find_uploaded(run.bronze.bucket, name, run.run_id, run.bronze.limits)
        except (Rejected, Unavailable):
            return None  # the upload meets it again, and then the records are on the disk
    if landing is not None and landing.destination is None:
        here = run.bronze.destination
        landing = msgspec.structs.replace(landing, is_waiting=True, destination=here)
        write_receipt(run.raw_dir, landing)
    return landing


def extract(name: str, run: Run, progress: Progress) -> Landing:
    """Fetch, check and land one entity; raise FetchFailed if the answer is no data."""
    entity = ENTITIES[name]
    record_type = entity.record_type()
    url = run.source.api_url.rstrip("/") + entity.path

    def read(answer: Answer) -> Landing:
        def blocks() -> Iterator[bytes]:
            for block in answer.blocks():
                progress(name, "reading", len(block))
                yield block

        reading = Reading(
            entity=name,
            run_id=run.run_id,
            ingested_at=timestamp(answer.received_at),
            source_url=public_url(url),
            redacted=entity.redacted,
        )
        parts = split_plainly(blocks(), record_type, entity.key)
        windows = check_records(parts, record_type, entity.key, entity.members)
        return land(windows, run.raw_dir, reading, run.bronze.destination if run.bronze else None)

    with open_session(run.source.user_agent) as session:
        return fetch(session, url, read, timeout=run.source.timeout)


def finished(outcome: Outcome, started: float, progress: Progress) -> Outcome:
    """Tell the end of one entity and return its outcome with the seconds it took."""
    outcome = replace(outcome, seconds=round(time.monotonic() - started, 3))
    progress(outcome.entity, outcome.status, 0)
    log.info(
        "finished entity=%s status=%s records=%d quarantined=%d bytes=%d seconds=%.3f run_id=%s",
        *(outcome.entity, outcome.status, outcome.records, outcome.quarantined),
        *(outcome.bytes, outcome.seconds, outcome.run_id),
    )
    return outcome
