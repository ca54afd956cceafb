"""Fetch products and users from the Fake Store API and append them to bronze in BigQuery.

Each entity is read as one answer, checked record by record, and landed as one file of lines,

    raw/{entity}/date={yyyy-mm-dd}/run_id={uuid}/data.json

which is uploaded to Cloud Storage, loaded into {dataset}.{entity}_raw by one load job, and
recorded in {dataset}.ingestion_runs. Each step happens once, however often it is repeated: a
killed or waiting run is finished by the same command with its --run-id, or by --resume.

Records that are not valid go to raw/quarantine/... with the reason; more than a tenth of them,
if they are more than two, fail the entity, as does any answer that is not a list of records, or
is longer than 2 GB when unpacked. One entity's failure leaves the others alone.

exit codes:
  0  done
  1  an entity failed; the message says what to do
  2  wrong usage or configuration
  3  Google Cloud was not to be reached: the records wait in --raw-dir for --resume

examples:
  batch_ingestion.py                              all entities, as .env says
  batch_ingestion.py --entities users --json      one entity, the summary as JSON
  batch_ingestion.py --local-only                 files under raw/ only, no Google Cloud
  batch_ingestion.py --run-id UUID                run once, or finish that run
  batch_ingestion.py --resume                     finish what waits, without asking the API
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # Ctrl-C while the rest is imported ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import logging
import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ingestion import command_line, settings
from ingestion.arguments import api_url, seconds, user_agent
from ingestion.batch.landing import (
    Landing,
    LandingError,
    land,
    read_receipt,
    remove_landing,
    remove_orphans,
    sole_run,
    timestamp,
    waiting_landings,
    write_receipt,
)
from ingestion.durable_files import AnotherWriterError
from ingestion.json_array import BadAnswer, split_records
from ingestion.records import Id, check_records
from ingestion.redaction import REDACTED
from ingestion.source import (
    TIMEOUT,
    USER_AGENT,
    Answer,
    FetchFailed,
    fetch,
    open_session,
    public_url,
)

if TYPE_CHECKING:
    from ingestion.batch.bronze import Limits

# how long to wait for an answer of Google's, and how long to try again
CLOUD_SECONDS = 10.0

STATUSES = ("done", "waiting", "failed")
# the columns of the summary: attributes of Outcome, numbers to the right
SUMMARY = {
    "entity": str.ljust,
    "status": str.ljust,
    "records": str.rjust,
    "quarantined": str.rjust,
    "bytes": str.rjust,
    "seconds": str.rjust,
    "where": str.ljust,
    "run_id": str.ljust,
}

log = logging.getLogger("batch_ingestion")


@dataclass(frozen=True)
class Entity:
    """What the API calls an entity, and the members that a record of it must have."""

    path: str
    required: Mapping[str, Any]
    key: str = "id"
    redacted: frozenset[str] = REDACTED


# another entity is another line, with its schema in terraform/schemas/{entity}_raw.json
ENTITIES = {
    "products": Entity("/products", {"id": Id, "title": str, "price": float, "category": str}),
    "users": Entity("/users", {"id": Id, "email": str, "username": str}),
}


@dataclass(frozen=True)
class Outcome:
    """What has become of one entity of one run; a line of the summary."""

    entity: str
    run_id: str
    status: str  # one of STATUSES
    where: str = ""
    records: int = 0
    quarantined: int = 0
    bytes: int = 0
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Source:
    """Where the records come from."""

    api_url: str
    user_agent: str = USER_AGENT
    timeout: tuple[float, float] = TIMEOUT


@dataclass(frozen=True)
class Cloud:
    """Where the records go: Google's clients, the names there, and how long to wait."""

    storage: Any
    bigquery: Any
    bucket_name: str
    dataset_id: str
    limits: Limits
    resume_command: str

    @property
    def finish_with(self) -> str:
        """The end of each message about records that are left in the raw folder."""
        return f"finish with: {self.resume_command}"


# (entity, what is being done, bytes read since the last call)
Report = Callable[[str, str, int], None]


@dataclass(frozen=True)
class Run:
    """One run: its id, where its records come from and go to; no `cloud` with --local-only."""

    run_id: str
    source: Source
    raw_dir: Path
    cloud: Cloud | None
    is_rerun: bool


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 1 if an entity failed, else 3 if one waits, else 0."""
    statuses = {outcome.status for outcome in outcomes}
    return 1 if "failed" in statuses else 3 if "waiting" in statuses else 0


def extract(name: str, run: Run, report: Report) -> Landing:
    """Fetch, check and land one entity; raise FetchFailed if the answer is no data."""
    entity = ENTITIES[name]
    record_type = msgspec.defstruct("Record", list(entity.required.items()), gc=False)
    url = run.source.api_url.rstrip("/") + entity.path

    def read(answer: Answer) -> Landing:
        def blocks() -> Iterator[bytes]:
            for block in answer.blocks():
                report(name, "reading", len(block))
                yield block

        return land(
            check_records(split_records(blocks()), record_type, entity.key),
            run.raw_dir,
            entity=name,
            run_id=run.run_id,
            ingested_at=timestamp(answer.received_at),
            source_url=public_url(url),
            redacted=entity.redacted,
            is_waiting=run.cloud is not None,
        )

    with open_session(run.source.user_agent) as session:
        return fetch(session, url, read, timeout=run.source.timeout)


def deliver(landing: Landing, raw_dir: Path, cloud: Cloud, report: Report) -> Outcome:
    """Upload, load and record a landing, as far as Google Cloud allows."""
    from ingestion.batch.bronze import (
        Refused,
        Unreachable,
        load_once,
        offending_line,
        record_once,
        upload_once,
    )

    entity, dataset_id, limits = landing.entity, cloud.dataset_id, cloud.limits
    file = raw_dir / landing.data_path
    where = str(file)
    try:
        report(entity, "uploading", 0)
        bucket = cloud.storage.bucket(cloud.bucket_name)
        uploaded, where = upload_once(bucket, landing, raw_dir, limits)
        report(entity, "loading", 0)
        job = load_once(cloud.bigquery, dataset_id, uploaded, where, limits)
        report(entity, "recording", 0)
        record_once(cloud.bigquery, dataset_id, uploaded, where, job, limits)
    except Unreachable as error:
        kept = file if file.exists() else where
        message = f"{error}. The records wait in {kept}; {cloud.finish_with}"
        return outcome_of(landing, "waiting", where, message)
    except Refused as error:
        kept = file if file.exists() else where
        line = offending_line(file, str(error))
        place = f" (line {line} of {file})" if line else ""
        message = f"{error}{place}. The records are kept in {kept}; when this is corrected, "
        return outcome_of(landing, "failed", where, message + cloud.finish_with)
    remove_landing(raw_dir, landing)
    return outcome_of(uploaded, "done", f"{cloud.dataset_id}.{entity}_raw")


def outcome_of(landing: Landing, status: str, where: str, message: str = "") -> Outcome:
    """Return the summary's line for a landing."""
    return Outcome(
        entity=landing.entity,
        run_id=landing.run_id,
        status=status,
        where=where,
        records=landing.records,
        quarantined=landing.quarantined,
        bytes=landing.bytes,
        message=message,
    )


def find_landing(name: str, run: Run) -> Landing | None:
    """Return what a run of this id has landed before, here or in the bucket."""
    landing = read_receipt(run.raw_dir, run.run_id, name)
    if run.cloud is None:
        return landing
    if landing is None:
        from ingestion.batch.bronze import Refused, Unreachable, find_uploaded

        try:
            bucket = run.cloud.storage.bucket(run.cloud.bucket_name)
            landing = find_uploaded(bucket, name, run.run_id, run.cloud.limits)
        except (Refused, Unreachable):
            return None  # deliver meets it again, and then the records are on the disk
    if landing is not None:
        landing = msgspec.structs.replace(landing, is_waiting=True)
        write_receipt(run.raw_dir, landing)
    return landing


def ingest(name: str, run: Run, report: Report) -> Outcome:
    """Bring one entity from the API, or from where an earlier attempt has got, to its end."""
    started = time.monotonic()
    try:
        landing = find_landing(name, run) if run.is_rerun else None
        if landing is None:
            landing = extract(name, run, report)
        if run.cloud:
            outcome = deliver(landing, run.raw_dir, run.cloud, report)
        else:
            outcome = outcome_of(landing, "done", str(run.raw_dir / landing.data_path))
    except (FetchFailed, BadAnswer, LandingError, OSError) as error:
        outcome = Outcome(name, run.run_id, "failed", message=str(error))
    return finished(outcome, started, report)


def finished(outcome: Outcome, started: float, report: Report) -> Outcome:
    """Report the end of one entity and return its outcome with the seconds it took."""
    outcome = replace(outcome, seconds=round(time.monotonic() - started, 3))
    report(outcome.entity, outcome.status, 0)
    log.info(
        "finished entity=%s status=%s records=%d quarantined=%d bytes=%d seconds=%.3f",
        *(outcome.entity, outcome.status, outcome.records, outcome.quarantined),
        *(outcome.bytes, outcome.seconds),
    )
    return outcome


def ingest_all(names: Sequence[str], run: Run) -> list[Outcome]:
    """Ingest the entities side by side; one's failure leaves the others alone."""
    log.info("started run_id=%s entities=%s", run.run_id, ",".join(names))
    remove_orphans(run.raw_dir)
    pool = ThreadPoolExecutor(len(names))
    try:
        with sole_run(run.raw_dir, run.run_id), show_progress(names) as report:
            return list(pool.map(lambda name: ingest(name, run, report), names))
    finally:
        # only after an interruption is there something to wait for, and nothing to gain by it
        pool.shutdown(wait=False, cancel_futures=True)


def resume(names: Sequence[str], run_id: str | None, raw_dir: Path, cloud: Cloud) -> list[Outcome]:
    """Deliver what waits, oldest first, until Google Cloud is out of reach again."""
    remove_orphans(raw_dir)
    outcomes: list[Outcome] = []
    is_away = False
    with show_progress(names) as report:
        for waiting in waiting_landings(raw_dir):
            if waiting.entity not in names or run_id not in (None, waiting.run_id):
                continue
            file = str(raw_dir / waiting.data_path)
            if is_away:
                message = f"Not tried. The records wait in {file}; {cloud.finish_with}"
                outcomes.append(outcome_of(waiting, "waiting", file, message))
                continue
            try:
                outcome = resume_one(waiting, raw_dir, cloud, report)
            except AnotherWriterError as error:
                outcomes.append(outcome_of(waiting, "waiting", file, f"{error} on this run."))
                continue
            outcomes.append(outcome)
            is_away = outcome.status == "waiting"
    return outcomes


def resume_one(waiting: Landing, raw_dir: Path, cloud: Cloud, report: Report) -> Outcome:
    """Deliver one landing; AnotherWriterError says that another process is at it."""
    started = time.monotonic()
    with sole_run(raw_dir, waiting.run_id):
        landing = read_receipt(raw_dir, waiting.run_id, waiting.entity)
        if landing is None:  # another process has just finished it
            outcome = outcome_of(waiting, "done", f"{cloud.dataset_id}.{waiting.entity}_raw")
        else:
            outcome = deliver(landing, raw_dir, cloud, report)
    return finished(outcome, started, report)


@contextmanager
def show_progress(names: Sequence[str]) -> Iterator[Report]:
    """Yield a function that shows what is being done: bars on a terminal, else lines in the log."""
    if not sys.stderr.isatty():
        steps: dict[str, str] = {}

        def log_step(name: str, step: str, size: int) -> None:
            if step not in STATUSES and steps.get(name) != step:
                steps[name] = step
                log.info("%s entity=%s", step, name)

        yield log_step
        return

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(pulse_style="cyan"),
        DownloadColumn(),
        TextColumn("{task.fields[step]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {name: progress.add_task(name, total=None, step="waiting") for name in names}

        def show(name: str, step: str, size: int) -> None:
            progress.update(tasks[name], advance=size, step=step)
            if step in STATUSES:
                size_read = progress.tasks[tasks[name]].completed
                progress.update(tasks[name], total=size_read or 1, completed=size_read or 1)

        yield show


def print_summary(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    """Print the summary on stdout, as a table or as JSON, and what went wrong in the log."""
    for outcome in outcomes:
        if outcome.message:
            level = logging.ERROR if outcome.status == "failed" else logging.WARNING
            log.log(level, "%s entity=%s: %s", outcome.status, outcome.entity, outcome.message)
    if as_json:
        print(json.dumps({"exit_code": exit_code(outcomes), "entities": [*map(asdict, outcomes)]}))
        return
    if not outcomes:
        print("nothing waits")
        return
    rows = [
        tuple(SUMMARY),
        *(tuple(_shown(getattr(each, c)) for c in SUMMARY) for each in outcomes),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(SUMMARY.values(), row, widths, strict=True)
        print("  ".join(justify(cell, width) for justify, cell, width in cells).rstrip())


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line; its defaults are the environment's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--project-id",
        default=settings.setting("GCP_PROJECT_ID"),
        help="Google Cloud project (default: $GCP_PROJECT_ID)",
    )
    parser.add_argument(
        "--bucket-name",
        default=settings.setting("GCS_BUCKET_NAME"),
        help="bucket of the raw zone (default: $GCS_BUCKET_NAME)",
    )
    parser.add_argument(
        "--dataset-id",
        default=settings.setting("BQ_DATASET") or "bronze_data",
        help="dataset of the bronze tables (default: $BQ_DATASET, else bronze_data)",
    )
    parser.add_argument(
        "--region",
        default=settings.setting("GCP_REGION") or settings.DEFAULT_REGION,
        help=f"location of the dataset (default: $GCP_REGION, else {settings.DEFAULT_REGION})",
    )
    parser.add_argument(
        "--api-url",
        type=api_url,
        default=settings.setting("FAKE_STORE_API_URL") or settings.DEFAULT_API_URL,
        help="address of the API (default: $FAKE_STORE_API_URL, else the public Fake Store)",
    )
    parser.add_argument(
        "--entities", nargs="+", choices=ENTITIES, default=list(ENTITIES), help="default: all"
    )
    parser.add_argument(
        "--local-only", action="store_true", help="write files under --raw-dir and nothing else"
    )
    parser.add_argument(
        "--raw-dir", type=Path, default=Path("raw"), help="local raw zone (default: raw)"
    )
    parser.add_argument(
        "--run-id", type=uuid.UUID, metavar="UUID", help="id of the run (default: a new one)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="finish what waits, without asking the API"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument(
        "--user-agent",
        type=user_agent,
        default=USER_AGENT,
        help=f"who asks the API (default: {USER_AGENT})",
    )
    parser.add_argument(
        "--api-timeout",
        type=seconds,
        default=TIMEOUT[1],
        metavar="SECONDS",
        help=f"silence after which the API is asked again (default: {TIMEOUT[1]:g})",
    )
    parser.add_argument(
        "--cloud-timeout",
        type=seconds,
        default=CLOUD_SECONDS,
        metavar="SECONDS",
        help="how long Google Cloud may take for one answer, and for all retries of a call "
        f"(default: {CLOUD_SECONDS:g})",
    )
    return parser


def connect(args: argparse.Namespace) -> Cloud:
    """Return the clients for Google Cloud; raise ConfigurationError where something is not set."""
    from ingestion.batch.bronze import Limits

    project_id = settings.require(args.project_id, "GCP_PROJECT_ID", "--project-id")
    return Cloud(
        storage=settings.storage_client(project_id),
        bigquery=settings.bigquery_client(project_id, args.region),
        bucket_name=settings.require(args.bucket_name, "GCS_BUCKET_NAME", "--bucket-name"),
        dataset_id=settings.require(args.dataset_id, "BQ_DATASET", "--dataset-id"),
        limits=Limits(args.cloud_timeout),
        resume_command=resume_command(args),
    )


def resume_command(args: argparse.Namespace) -> str:
    """Return the command that finishes the job, with the flags that its place depends on."""
    defaults = build_parser().parse_args([])
    words = ["python", "batch_ingestion.py", "--resume"]
    for name in ("project_id", "bucket_name", "dataset_id", "region", "raw_dir"):
        value = getattr(args, name)
        if value != getattr(defaults, name):
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the batch stage and return its exit code."""
    settings.load_environment()
    args = build_parser().parse_args(argv)
    # on a terminal the bars tell what the lines would
    level = logging.WARNING if sys.stderr.isatty() else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    names = list(dict.fromkeys(args.entities))
    given_id = str(args.run_id) if args.run_id else None
    run_id = given_id or str(uuid.uuid4())
    try:
        if args.resume and args.local_only:
            raise settings.ConfigurationError("--resume and --local-only exclude each other.")
        cloud = None if args.local_only else connect(args)
        if args.resume and cloud:
            outcomes = resume(names, given_id, args.raw_dir, cloud)
        else:
            source = Source(args.api_url, args.user_agent, (TIMEOUT[0], args.api_timeout))
            run = Run(run_id, source, args.raw_dir, cloud, is_rerun=given_id is not None)
            outcomes = ingest_all(names, run)
    except (settings.ConfigurationError, AnotherWriterError) as error:
        log.error("%s", error)
        return 2
    except LandingError as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        again = "--resume" if args.resume else f"--run-id {run_id}"
        log.error("interrupted; nothing is lost. Finish with the same command and %s", again)
        # every step can be killed and repeated: the threads need not end first
        os._exit(1)
    print_summary(outcomes, as_json=args.json)
    return exit_code(outcomes)


if __name__ == "__main__":
    # `docker stop` and schedulers send SIGTERM: the same as Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command_line.run(main)
