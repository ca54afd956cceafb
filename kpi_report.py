"""Writes one HTML page on the shop's figures and on the pipeline's health, from gold.

    python kpi_report.py
    python kpi_report.py --output report/index.html --open

Reads the KPI tables of the gold dataset through BigQuery's client, in Google Cloud or in the
local GCP (`BIGQUERY_EMULATOR_HOST`). The page is self-contained: it opens without a network.
Every figure stands in gold already; nothing is computed here but the look of it.

exit codes: 0 written; 1 gold could not be read, or the page not be written; 2 wrong usage or
configuration
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # Ctrl-C while the rest is imported ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from ingestion import command_line, settings
from ingestion.project import PROJECT_FOLDER

if TYPE_CHECKING:
    from google.cloud import bigquery

TEMPLATE = PROJECT_FOLDER / "reporting" / "page.html.j2"
GOLD_DATASET = "gold_data"
QUERY_TIMEOUT_SECONDS = 30.0

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a table on the page; `kind` is text, date, number or money."""

    name: str
    title: str
    kind: str = "text"


@dataclass(frozen=True)
class Part:
    """One section: a gold table as it is, its chart and its table on the page."""

    name: str
    title: str
    note: str
    order_by: str
    columns: tuple[Column, ...]
    bars_by: str = ""  # a bar of `value` for each of these
    days_of: tuple[str, ...] = ()  # for each day in `order_by` a bar of these, stacked


# what each of the tables on carts has, whatever its grain
SALES = (
    Column("carts", "Carts", "number"),
    Column("units", "Units", "number"),
    Column("value", "Value", "money"),
)
TOTALS = Part(
    "kpi_totals",
    "The whole shop",
    "Over all carts that still exist.",
    "carts",
    (
        Column("value", "Value", "money"),
        Column("units", "Units", "number"),
        Column("carts", "Carts", "number"),
        Column("average_cart_value", "Average cart", "money"),
        Column("first_cart_date", "First cart", "date"),
        Column("last_cart_date", "Last cart", "date"),
    ),
)
PARTS = (
    Part(
        "kpi_days",
        "Value by day",
        "By the carts' own date; value is list price times quantity.",
        "date_day",
        (
            Column("date_day", "Day", "date"),
            *SALES,
        ),
        days_of=("value",),
    ),
    Part(
        "kpi_categories",
        "Value by category",
        "The category that a product had when the cart last changed.",
        "value desc, category",
        (
            Column("category", "Category"),
            *SALES,
        ),
        bars_by="category",
    ),
    Part(
        "kpi_products",
        "Value by product",
        "Also the products that stand in no cart.",
        "value desc, product_id",
        (
            Column("title", "Product"),
            Column("category", "Category"),
            Column("list_price", "List price", "money"),
            *SALES,
        ),
        bars_by="title",
    ),
    Part(
        "kpi_users",
        "Value by user",
        "Users by their number; no personal data is in gold.",
        "value desc, user_id",
        (
            Column("user_id", "User"),
            Column("city", "City"),
            *SALES,
            Column("average_cart_value", "Average cart", "money"),
            Column("first_cart_date", "First cart", "date"),
            Column("last_cart_date", "Last cart", "date"),
        ),
    ),
    Part(
        "kpi_cart_lifecycle",
        "What the polls saw",
        "Carts found by a cold start, created, modified and deleted.",
        "day",
        (
            Column("day", "Day", "date"),
            Column("snapshot_carts", "Found", "number"),
            Column("created_carts", "Created", "number"),
            Column("modifications", "Modified", "number"),
            Column("deleted_carts", "Deleted", "number"),
            Column("average_life_hours", "Average life, h", "number"),
        ),
        days_of=("created_carts", "modifications", "deleted_carts"),
    ),
    Part(
        "pipeline_runs",
        "Last batch runs",
        "The newest run of each entity.",
        "entity",
        (
            Column("entity", "Entity"),
            Column("status", "Status"),
            Column("records", "Records", "number"),
            Column("quarantined", "Quarantined", "number"),
            Column("finished_at", "Ended (UTC)", "date"),
            Column("loaded_at", "Last loaded (UTC)", "date"),
            Column("run_id", "Run"),
        ),
    ),
    Part(
        "pipeline_health",
        "The pipeline by day",
        "Duplicates are deliveries of an event that was known, absorbed; lag is poll to Pub/Sub.",
        "day",
        (
            Column("day", "Day", "date"),
            Column("runs", "Runs", "number"),
            Column("failed_runs", "Failed", "number"),
            Column("records", "Records", "number"),
            Column("quarantined", "Quarantined", "number"),
            Column("deliveries", "Deliveries", "number"),
            Column("events", "Events", "number"),
            Column("duplicates", "Duplicates", "number"),
            Column("rejected_events", "Rejected", "number"),
            Column("average_lag_seconds", "Average lag, s", "number"),
            Column("max_lag_seconds", "Longest lag, s", "number"),
        ),
    ),
)
# gold is a day old at most when the batch stage runs daily; two give a late run its time
STALE_AFTER_HOURS = 48
SLOW_EVENT_SECONDS = 300


class ReportError(Exception):
    """Gold could not be read, told in one sentence; the script ends with exit code 1."""


def warnings_of(gold: Mapping[str, Sequence[Row]], now: datetime) -> list[str]:
    """Return a sentence for each thing that is wrong; none where the pipeline is well.

    `gold` has the rows of each table by its name, `now` is an aware UTC time.
    """
    warnings = []
    if not gold["kpi_totals"] or not gold["kpi_totals"][0]["carts"]:
        warnings.append(
            "Gold holds no cart yet: run the ingestion scripts, then dbt build, then this again."
        )
    for run in gold["pipeline_runs"]:
        entity = run["entity"]
        if run["status"] != "loaded":
            warnings.append(f"The newest run of {entity} ended {run['status']}.")
        if run["quarantined"]:
            warnings.append(f"The newest run of {entity} quarantined {run['quarantined']} records.")
        if run["loaded_at"] is None or now - run["loaded_at"] > timedelta(hours=STALE_AFTER_HOURS):
            warnings.append(f"No run of {entity} was loaded in the last {STALE_AFTER_HOURS} hours.")
    if gold["kpi_totals"] and not gold["pipeline_runs"]:
        warnings.append("No batch run is recorded: products and users may be missing.")
    for day in gold["pipeline_health"][-1:]:
        if day["rejected_events"]:
            warnings.append(f"{day['rejected_events']} events of {day['day']} could not be read.")
        if (day["max_lag_seconds"] or 0) > SLOW_EVENT_SECONDS:
            warnings.append(
                f"An event of {day['day']} took {day['max_lag_seconds']:.0f} s to Pub/Sub."
            )
    return warnings


def show(value: Any, column: Column) -> str:
    """Return a value as the page shows it; a missing one is a dash."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    if column.kind == "money":
        return f"{value:,.2f}"
    if column.kind == "number":
        return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
    return str(value)


def plain(value: Any) -> Any:
    """Return a BigQuery value as JSON can hold it."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, (date, datetime)) else value


def chart(part: Part, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the Vega-Lite specification of a part's chart, the part's `rows` included."""
    import altair as alt

    values = [{column.name: plain(row[column.name]) for column in part.columns} for row in rows]
    titles = {column.name: column.title for column in part.columns}
    drawn = alt.Chart(alt.InlineData(values=values)).properties(
        width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    )
    if part.bars_by:
        # height by step: every category keeps its label, however many there are
        drawn = (
            drawn.mark_bar()
            .encode(
                alt.X("value:Q", title=titles["value"]),
                alt.Y(part.bars_by, type="nominal", title=None, sort="-x"),
                tooltip=[alt.Tooltip(part.bars_by, type="nominal"), alt.Tooltip("value:Q")],
            )
            .properties(height={"step": 22})
        )
    else:
        # bars, as nothing is known between two days; in UTC, or a day would shift with the reader
        renamed = {titles[name]: f"datum.{name}" for name in part.days_of}
        legend = alt.Legend(orient="top") if len(renamed) > 1 else None
        drawn = (
            drawn.transform_calculate(**renamed)
            .transform_fold(list(renamed), as_=["series", "amount"])
            .mark_bar(width=alt.RelativeBandSize(0.8))
            .encode(
                alt.X(
                    part.order_by,
                    type="temporal",
                    timeUnit="utcyearmonthdate",
                    title=None,
                    axis=alt.Axis(format="%Y-%m-%d", labelOverlap=True),
                ),
                alt.Y("amount:Q", title=None),
                alt.Color("series:N", title=None, legend=legend, sort=list(renamed)),
                tooltip=[
                    alt.Tooltip(part.order_by, type="temporal", timeUnit="utcyearmonthdate"),
                    "series:N",
                    "amount:Q",
                ],
            )
            .properties(height=220)
        )
    specification: dict[str, Any] = drawn.to_dict()
    return specification


@cache
def vega_bundle() -> str:
    """Return Vega-Embed and all it needs as one piece of JavaScript."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle


def render(gold: Mapping[str, Sequence[Row]], now: datetime, **page: Any) -> str:
    """Return the page as HTML; every value from the data is escaped where it stands.

    `gold` has the rows of each table by its name; `page` has project_id, dataset_id and docs.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["show"] = show
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    charts = {
        part.name: chart(part, gold[part.name])
        for part in PARTS
        if (part.bars_by or part.days_of) and gold[part.name]
    }
    return template.render(
        totals=TOTALS,
        parts=PARTS,
        gold=gold,
        now=now,
        warnings=warnings_of(gold, now),
        # "<" may not stand in an inline script: "</script>" in a title would end it
        charts_json=json.dumps(charts).replace("<", "\\u003c"),
        vega_bundle=vega_bundle(),
        **page,
    )


def read_gold(client: bigquery.Client, dataset_id: str) -> dict[str, list[Row]]:
    """Return the rows of every gold table that the page shows, by the table's name.

    Raises ReportError where a table is missing, access is denied or BigQuery does not answer.
    """
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound
    from google.api_core.retry import Retry
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    retry = Retry(timeout=QUERY_TIMEOUT_SECONDS)
    gold: dict[str, list[Row]] = {}
    for part in (TOTALS, *PARTS):
        table = f"{client.project}.{dataset_id}.{part.name}"
        columns = ", ".join(f"`{column.name}`" for column in part.columns)
        query = f"select {columns} from `{table}` order by {part.order_by}"  # noqa: S608, our names
        try:
            job = client.query(query, retry=retry, job_retry=None, timeout=QUERY_TIMEOUT_SECONDS)
            rows = job.result(retry=retry, job_retry=None, timeout=QUERY_TIMEOUT_SECONDS)
            gold[part.name] = [dict(row) for row in rows]
        except NotFound as error:
            raise ReportError(
                f"Gold table {table} does not exist: check --project-id, then run dbt build "
                "in ey_test_tech/."
            ) from error
        except Forbidden as error:
            raise ReportError(
                f"No permission to read {table}: grant roles/bigquery.dataViewer on the dataset "
                "and roles/bigquery.jobUser on the project."
            ) from error
        except GoogleAuthError as error:
            raise ReportError(
                "Google did not take the credentials: renew the key, or log in again; see "
                "Credentials in the README."
            ) from error
        except (GoogleAPIError, RequestException, TimeoutError) as error:
            raise ReportError(
                f"BigQuery did not give {table}: {type(error).__name__}; try again later."
            ) from error
    return gold


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; defaults come from the environment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--project-id",
        default=settings.setting("GCP_PROJECT_ID"),
        help="GCP project (default: $GCP_PROJECT_ID)",
    )
    parser.add_argument(
        "--dataset-id", default=GOLD_DATASET, help="gold dataset (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report/index.html"),
        metavar="FILE",
        help="page to write (default: report/index.html)",
    )
    parser.add_argument("--docs", metavar="URL", help="dbt docs page to link to")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; return its exit code."""
    settings.load_environment()
    args = build_parser().parse_args(argv)
    try:
        project_id = settings.require(args.project_id, "GCP_PROJECT_ID", "--project-id")
        location = settings.setting("GCP_REGION") or settings.DEFAULT_REGION
        gold = read_gold(settings.bigquery_client(project_id, location), args.dataset_id)
        page = render(
            gold,
            datetime.now(UTC),
            project_id=project_id,
            dataset_id=args.dataset_id,
            docs=args.docs,
        )
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(page, encoding="utf-8")
    except settings.ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    except (ReportError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"report: {args.output}")
    if args.open:
        webbrowser.open(args.output.resolve().as_uri())
    return 0


if __name__ == "__main__":
    command_line.run(main)
