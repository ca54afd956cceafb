"""Fetch products and users from the Fake Store API and append them to bronze in BigQuery.

Each entity's answer is checked record by record and landed as one file of lines,

    raw/{entity}/date={yyyy-mm-dd}/run_id={uuid}/data.json

which is uploaded to Cloud Storage, loaded into {dataset}.{entity}_raw and recorded in
{dataset}.ingestion_runs, each once, however often a step is repeated. Records that are not valid go
to raw/quarantine/ with the reason; more than two, and more than a tenth of all, fail the entity, as
does an answer that is no list of records, or is longer than 2 GB when unpacked.

exit codes:
  0  done
  1  an entity failed; the message says what to do
  2  wrong usage or configuration
  3  Google Cloud was not to be reached: the records wait for --resume

examples:
  batch_ingestion.py                            products and users, as .env says
  batch_ingestion.py --entities users --json    one entity, the summary as JSON
  batch_ingestion.py --local-only               files in raw/, no Google Cloud
  batch_ingestion.py --run-id name:2026-11-22   run once, or finish that run
  batch_ingestion.py --resume                   finish what waits, ask no API
  batch_ingestion.py --replay-quarantine        load what is valid by now
"""

from __future__ import annotations

import signal

from ingestion.project import check_packages

if __name__ == "__main__":
    # Ctrl-C while the rest is imported ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    check_packages()

import argparse
import logging
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from ingestion import command_line, settings
from ingestion.arguments import Parser, add_json_arguments, api_url, seconds, user_agent
from ingestion.batch.bronze import Bronze, Commands
from ingestion.batch.entities import DEFAULT_ENTITIES, ENTITIES
from ingestion.batch.receipts import LandingError
from ingestion.batch.replay import replay
from ingestion.batch.resume import resume
from ingestion.batch.run import Run, Source, run_entities
from ingestion.batch.source_check import check_source
from ingestion.batch.summary import Outcome, exit_code, print_summary
from ingestion.durable_files import AnotherWriterError
from ingestion.google_names import require_name, require_project
from ingestion.logs import set_up_logging
from ingestion.project import DEFAULT_REGION, PROJECT_FOLDER
from ingestion.source import TIMEOUT, USER_AGENT

# how long to wait for an answer of Google's, and how long to try again
CLOUD_SECONDS = 10.0
# of version 5, so that a name gives the same id on every machine
RUN_ID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "fakestoreapi.com")

log = logging.getLogger("batch_ingestion")


def run_id(text: str) -> str | None:
    """Return the id of a run: a UUID as given, or the one that `name:TEXT` always gives."""
    if not text:
        return None
    prefix, colon, name = text.partition(":")
    if prefix == "name" and colon and name.strip():
        return str(uuid.uuid5(RUN_ID_NAMESPACE, name.strip()))
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no UUID; any text becomes one as 'name:TEXT'"
        ) from None


def raw_folder(text: str = "") -> Path:
    """Return the raw folder: as given, else as the environment says, else in the project."""
    return Path(text) if text else PROJECT_FOLDER / (settings.setting("RAW_DIR") or "raw")


def has_no_disk() -> bool:
    """Return whether this is Cloud Run, where files end with the process."""
    return bool(settings.setting("CLOUD_RUN_JOB") or settings.setting("K_SERVICE"))


def build_parser() -> argparse.ArgumentParser:
    """Return the command line; its defaults are the environment's."""
    parser = Parser(usage="%(prog)s [options]", description=__doc__)
    add = parser.add_argument_group("what to read, and where to").add_argument
    add(
        "--entities",
        nargs="+",
        choices=ENTITIES,
        default=list(DEFAULT_ENTITIES),
        metavar="ENTITY",
        help=f"of {', '.join(ENTITIES)} (default: {' '.join(DEFAULT_ENTITIES)})",
    )
    add(
        "--api-url",
        type=api_url,
        default=settings.setting("FAKE_STORE_API_URL") or settings.DEFAULT_API_URL,
        metavar="URL",
        help="address of the API (default: $FAKE_STORE_API_URL, else the public Fake Store)",
    )
    add(
        "--new-source",
        action="store_true",
        help="go on with another API than the one that the dataset was filled from",
    )
    add(
        "--project-id",
        default=settings.setting("GCP_PROJECT_ID"),
        metavar="ID",
        help="Google Cloud project (default: $GCP_PROJECT_ID)",
    )
    add(
        "--region",
        default=settings.setting("GCP_REGION") or DEFAULT_REGION,
        metavar="NAME",
        help=f"location of the dataset (default: $GCP_REGION, else {DEFAULT_REGION})",
    )
    add(
        "--bucket-name",
        default=settings.setting("GCS_BUCKET_NAME"),
        metavar="NAME",
        help="bucket of the raw zone (default: $GCS_BUCKET_NAME)",
    )
    add(
        "--dataset-id",
        default=settings.setting("BQ_DATASET") or "bronze_data",
        metavar="NAME",
        help="dataset of the bronze tables (default: $BQ_DATASET, else bronze_data)",
    )
    add("--local-only", action="store_true", help="write files under --raw-dir and nothing else")
    add(
        "--raw-dir",
        type=raw_folder,
        default=raw_folder(),
        metavar="DIR",
        help="local raw zone (default: $RAW_DIR, else raw in the project)",
    )
    add(
        "--no-disk",
        action="store_true",
        default=has_no_disk(),
        help="--raw-dir ends with the process: nothing waits there (default on Cloud Run)",
    )
    group = parser.add_argument_group("what to do, instead of a new run")
    group.add_argument(
        "--run-id",
        type=run_id,
        metavar="UUID",
        help="id of the run (default: a new one); name:TEXT gives the same one for the same text",
    )
    add = group.add_mutually_exclusive_group().add_argument
    add("--resume", action="store_true", help="finish what waits, without asking the API")
    add(
        "--replay-quarantine",
        action="store_true",
        help="load the refused records that are valid by now, as additions to their runs",
    )
    group = parser.add_argument_group("what it says")
    add_json_arguments(group, "the summary")
    group.add_argument(
        "--user-agent",
        type=user_agent,
        default=USER_AGENT,
        metavar="TEXT",
        help=f"who asks the API (default: {USER_AGENT})",
    )
    add = parser.add_argument_group("how long to wait, in seconds").add_argument
    add(
        "--api-timeout",
        type=seconds,
        default=TIMEOUT[1],
        metavar="N",
        help=f"of silence before the API is asked again (default: {TIMEOUT[1]:g})",
    )
    add(
        "--cloud-timeout",
        type=seconds,
        default=CLOUD_SECONDS,
        metavar="N",
        help="for one answer of Google Cloud, and for all retries of a call (default: "
        f"{CLOUD_SECONDS:g})",
    )
    return parser


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; exit code 2 where two exclude each other."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.resume and args.local_only:
        parser.error("--resume uploads and loads, and does not go with --local-only")
    if args.resume and args.no_disk:
        parser.error("without a disk nothing waits for --resume: give the --run-id to finish")
    return args


def open_bronze(args: argparse.Namespace) -> Bronze:
    """Return the way into Google Cloud; raise ConfigurationError where something is not set."""
    from ingestion.batch.google_calls import Limits

    # all that may be missing is asked for before the credentials are
    project_id = require_project(args.project_id)
    bucket_name = require_name(
        "name of a bucket", args.bucket_name, flag="--bucket-name", name="GCS_BUCKET_NAME"
    )
    dataset_id = require_name(
        "name of a dataset", args.dataset_id, flag="--dataset-id", name="BQ_DATASET"
    )
    region = require_name("region", args.region, flag="--region", name="GCP_REGION")
    return Bronze(
        storage=settings.storage_client(project_id),
        bigquery=settings.bigquery_client(project_id, region),
        bucket_name=bucket_name,
        dataset_id=dataset_id,
        limits=Limits(args.cloud_timeout),
        commands=commands(args),
        has_disk=not args.no_disk,
        accepts_new_source=args.new_source,
    )


def commands(args: argparse.Namespace) -> Commands:
    """Return the script as messages name it, with the flags that its place depends on."""
    in_project = Path.cwd() == PROJECT_FOLDER
    script = "batch_ingestion.py" if in_project else str(PROJECT_FOLDER / "batch_ingestion.py")
    defaults = build_parser().parse_args([])

    def given(*names: str) -> list[str]:
        words = []
        for name in names:
            value = getattr(args, name)
            if value != getattr(defaults, name):
                shown = value.absolute() if isinstance(value, Path) else value
                words += ["--" + name.replace("_", "-"), str(shown)]
        return words

    destination = given("project_id", "bucket_name", "dataset_id", "region")
    no_disk = ["--no-disk"] if args.no_disk and not defaults.no_disk else []
    new_source = ["--new-source"] if args.new_source else []
    return Commands(
        script, destination, [*given("raw_dir"), *new_source], [*given("api_url"), *no_disk]
    )


def do_what_is_asked(args: argparse.Namespace, new_run_id: str) -> list[Outcome]:
    """Run, resume or replay, as the flags say."""
    names = list(dict.fromkeys(args.entities))
    bronze = None if args.local_only else open_bronze(args)
    if args.resume and bronze:
        return resume(names, args.run_id, args.raw_dir, bronze)
    if args.replay_quarantine:
        return replay(names, args.run_id, args.raw_dir, bronze)
    if bronze:
        check_source(args.api_url, bronze)
    source = Source(args.api_url, args.user_agent, (TIMEOUT[0], args.api_timeout))
    run = Run(new_run_id, source, args.raw_dir, bronze, is_rerun=args.run_id is not None)
    return run_entities(names, run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the batch stage and return its exit code."""
    settings.load_environment()
    args = parse_arguments(argv)
    # on a terminal the bars tell what the lines would
    level = logging.WARNING if sys.stderr.isatty() else logging.INFO
    new_run_id = args.run_id or str(uuid.uuid4())
    # what is resumed has ids of its own
    line_id = args.run_id if args.resume or args.replay_quarantine else new_run_id
    set_up_logging(as_json=args.log_json, level=level, run_id=line_id)
    try:
        outcomes = do_what_is_asked(args, new_run_id)
    except (settings.ConfigurationError, AnotherWriterError) as error:
        log.error("%s", error)
        return 2
    except LandingError as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        is_repeated = args.resume or args.replay_quarantine
        again = "same command" if is_repeated else f"same command and --run-id {new_run_id}"
        log.error("interrupted; nothing is lost. Finish with the %s", again)
        # every step can be killed and repeated: the threads need not end first
        os._exit(1)
    print_summary(outcomes, as_json=args.json)
    return exit_code(outcomes)


if __name__ == "__main__":
    # `docker stop` and schedulers send SIGTERM: the same as Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command_line.run(main)
