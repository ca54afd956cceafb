"""Writes one HTML page on the shop's figures and on the pipeline's health, from gold.

    python kpi_report.py
    python kpi_report.py --output report/index.html --open
    python kpi_report.py --output gs://BUCKET/index.html

Reads the KPI tables of the gold dataset through BigQuery's client, in Google Cloud or in the
local GCP (`BIGQUERY_EMULATOR_HOST`). The page is self-contained: it opens without a network.
Every figure stands in gold already; nothing is computed here but the look of it. The page is
replaced whole: where the run fails, the one before stays.

Exit codes: 0 written; 1 gold could not be read, or the page not be written; 2 wrong usage or
configuration
"""

from __future__ import annotations

import signal

from ingestion.project import check_packages

if __name__ == "__main__":
    # Ctrl-C while the rest is imported ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    check_packages()

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from datetime import UTC, datetime

from ingestion import command_line, settings
from ingestion.arguments import Parser
from ingestion.bucket_errors import BucketRefusedError, BucketUnreachableError
from ingestion.google_names import require_name, require_project
from ingestion.project import DEFAULT_REGION, PROJECT_FOLDER
from reporting.gold import ReportError, read_gold
from reporting.output import OutputError, check_output, write_page
from reporting.page import render

GOLD_DATASET = "gold_data"
DEFAULT_PAGE = PROJECT_FOLDER / "report" / "index.html"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; defaults come from the environment."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--project-id",
        default=settings.setting("GCP_PROJECT_ID"),
        metavar="ID",
        help="GCP project (default: $GCP_PROJECT_ID)",
    )
    parser.add_argument(
        "--dataset-id",
        default=GOLD_DATASET,
        metavar="NAME",
        help="gold dataset (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        default=str(DEFAULT_PAGE),
        metavar="FILE",
        help="page to write, also gs://BUCKET/OBJECT (default: report/index.html)",
    )
    parser.add_argument("--docs", metavar="URL", help="dbt docs page to link to")
    parser.add_argument(
        "--warning",
        action="append",
        default=[],
        metavar="TEXT",
        help="sentence to begin the page with, such as that an earlier step failed; repeatable",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; return its exit code."""
    settings.load_environment()
    args = build_parser().parse_args(argv)
    try:
        project_id = require_project(args.project_id)
        dataset_id = require_name("name of a dataset", args.dataset_id, flag="--dataset-id")
        location = settings.setting("GCP_REGION") or DEFAULT_REGION
        region = require_name("region", location, name="GCP_REGION")
        check_output(args.output)
        gold = read_gold(settings.bigquery_client(project_id, region), dataset_id)
        page = render(
            gold,
            datetime.now(UTC),
            project_id=project_id,
            dataset_id=dataset_id,
            docs=args.docs,
            told=args.warning,
        )
        address = write_page(page, args.output, project_id)
    except settings.ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    except (ReportError, OutputError, BucketRefusedError) as error:
        print(error, file=sys.stderr)
        return 1
    except BucketUnreachableError as error:
        print(f"{error}: the page before stays, run again later.", file=sys.stderr)
        return 1
    print(f"report: {args.output}")
    if args.open and not webbrowser.open(address):
        print("No browser was found: open the page by hand.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    command_line.run(main)
