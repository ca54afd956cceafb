"""Measure dbt on a long history: a full refresh, then a day's run. Prints JSON lines.

    python -m benchmarks.dbt --events 1000000 --carts 100000 --days 365

Bronze gets `--events` cart events on `--carts` carts, and a daily batch run of 20 products and
10 users, spread over `--days` days; dbt builds silver and gold from nothing. Then `--new` events
(1 %) arrive, and dbt runs again. Both runs are measured on bqemulator: seconds of the models'
own statements, and the rows that these statements read, counted by their literal filters. With
several values of `--days` at the same number of events a day, the rows of the second run show
what a day costs after a month and after years.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ingestion.arguments import Parser, count
from ingestion.project import PROJECT_FOLDER
from local_gcp.servers import LocalGcp

DBT_PROJECT = PROJECT_FOLDER / "ey_test_tech"
BUCKET = "bench-rows"
NEW_SHARE = 0.01
ROWS_PER_FILE = 100_000

Rows = Iterator[dict[str, Any]]


def iso(moment: datetime) -> str:
    """Return the moment as the pipeline writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def cart_events(numbers: range, carts: int, begin: datetime, step: timedelta) -> Rows:
    """Yield one delivery per number; a cart is created first, then modified again and again."""
    for number in numbers:
        cart_id, earlier = number % carts + 1, number // carts
        at = iso(begin + step * (number - numbers.start))
        lines = [{"productId": (number + n) % 20 + 1, "quantity": n + 1} for n in range(2)]
        cart = {"id": cart_id, "userId": cart_id % 10 + 1, "date": "2020-03-02T00:00:00.000Z"}
        document = {
            "specversion": "1.0",
            "id": f"{number:064x}",
            "type": f"com.fakestoreapi.cart_{'modified' if earlier else 'created'}",
            "time": at,
            "generation": "20200101T000000000Z-00000000",
            "sequence": f"{earlier + 1:010d}",
            "data": {"cart_id": cart_id, "after": cart | {"products": lines}},
        }
        yield {"message_id": str(number), "publish_time": at, "data": document, "attributes": {}}


def batch_run(entity: str, records: int, at: datetime) -> Rows:
    """Yield what one batch run writes to an entity's bronze table."""
    for number in range(1, records + 1):
        record: dict[str, Any] = {"id": number, "title": f"Thing {number}", "price": number}
        if entity == "users":
            record = {"id": number, "address": {"city": "Mesa"}}
        envelope = {"_run_id": iso(at), "_ingested_at": iso(at), "_source_url": "bench"}
        yield {"record": record | {"category": "things"}} | envelope


def run_row(entity: str, records: int, at: datetime) -> dict[str, Any]:
    """Return the batch run's row of ingestion_runs."""
    names = dict.fromkeys(("object", "crc32c", "job_id"), "bench")
    counts = {"records": records, "quarantined": 0, "bytes": 0}
    times = {"started_at": iso(at), "finished_at": iso(at)}
    return {"run_id": iso(at), "entity": entity, "status": "loaded"} | names | counts | times


def load(gcp: LocalGcp, table: str, rows: Rows) -> int:
    """Append rows to a bronze table by load jobs; return their number."""
    from google.cloud import bigquery

    folder = gcp.root / "gcs" / BUCKET
    folder.mkdir(exist_ok=True)
    config = bigquery.LoadJobConfig(source_format="NEWLINE_DELIMITED_JSON")
    total = 0
    lines: list[str] = []

    def flush() -> None:
        # bqemulator reads gs:// addresses from the storage emulator's folder
        (folder / "rows.json").write_text("\n".join(lines))
        address, target = f"gs://{BUCKET}/rows.json", f"{gcp.project_id}.bronze_data.{table}"
        gcp.clients.bigquery.load_table_from_uri(address, target, job_config=config).result(
            timeout=600
        )
        lines.clear()

    for row in rows:
        lines.append(json.dumps(row))
        total += 1
        if len(lines) == ROWS_PER_FILE:
            flush()
    if lines:
        flush()
    return total


def run_dbt(*arguments: str) -> tuple[float, list[str]]:
    """Run dbt's models; return the seconds of their execution and the statements sent."""
    from dbt.cli.main import dbtRunner

    statements: list[str] = []

    def collect(event: Any) -> None:
        if event.info.name == "SQLQuery":
            statements.append(event.data.sql)

    folders = ["--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)]
    quiet = ["--quiet", "--log-level-file", "none"]
    outcome = dbtRunner(callbacks=[collect]).invoke([*quiet, "run", *arguments, *folders])
    if not outcome.success:
        sys.exit(f"dbt run failed: {outcome.exception or 'see the messages above'}")
    results: Any = outcome.result
    return sum(result.execution_time for result in results), statements


def count_rows(gcp: LocalGcp, query: str) -> int:
    """Return the one number that a query gives."""
    (row,) = gcp.clients.bigquery.query(query).result(timeout=600)
    return int(row[0])


def rows_read(gcp: LocalGcp, statements: list[str]) -> Counter[str]:
    """Return the rows of each table that the statements read, within their literal filters.

    A model's statements find the days that differ, and make a table or replace those days. A
    table that they read without a literal filter on its partition column counts whole; views
    count by their own rows.
    """
    reading = re.compile(
        r"from `[\w-]+`\.`(?P<dataset>\w+)`\.`(?P<table>\w+)`(?: as \w+)?\s*"
        r"(?:inner join \w+\s+on [\w.]+ = [\w.]+\s+)?"
        r"(?P<filter>where\s+[\w.]+ (?:between date '[^']+' and date '[^']+'"
        r"|>= (?:timestamp|date) '[^']+'\s+and [\w.]+ < (?:timestamp|date) '[^']+'))?"
    )
    counted: Counter[str] = Counter()
    known: dict[str, int] = {}
    for statement in statements:
        # a view reads nothing yet, nor does the query by which dbt learns a contract's columns
        if "create or replace view" in statement or "__dbt_sbq" in statement:
            continue
        for found in reading.finditer(statement):
            if "__dbt_tmp" in found["table"]:
                continue
            condition = re.sub(r"\b\w+\.", "", found["filter"] or "")
            table = f"{found['dataset']}.{found['table']}"
            query = f"select count(*) from {table} {condition}"  # noqa: S608, dbt's own names
            if query not in known:
                known[query] = count_rows(gcp, query)
            counted[table] += known[query]
    return counted


def measure(gcp: LocalGcp, events: int, carts: int, days: int, new: int) -> None:
    """Build from nothing, add new events, run again; print one line for each run."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    begin = midnight - timedelta(days=days)
    step = timedelta(days=days - 1) / events
    load(gcp, "carts_events_raw", cart_events(range(events), carts, begin, step))
    for entity, records in (("products", 20), ("users", 10)):
        moments = [begin + timedelta(days=day, hours=2) for day in range(days)]
        load(gcp, f"{entity}_raw", (r for at in moments for r in batch_run(entity, records, at)))
        load(gcp, "ingestion_runs", (run_row(entity, records, at) for at in moments))
    full_seconds, statements = run_dbt("--full-refresh")
    full_read = rows_read(gcp, statements)
    report("full refresh", days, events, full_seconds, full_read)
    numbers = range(events, events + new)
    latest, soon = midnight - timedelta(hours=12), timedelta(milliseconds=1)
    load(gcp, "carts_events_raw", cart_events(numbers, carts, latest, soon))
    seconds, statements = run_dbt()
    read = rows_read(gcp, statements)
    report("new events", days, new, seconds, read)
    ratios = {"seconds": seconds / full_seconds, "rows_read": read.total() / full_read.total()}
    print(json.dumps({"run": "ratio", **{name: round(r, 3) for name, r in ratios.items()}}))


def report(run: str, days: int, events: int, seconds: float, read: Counter[str]) -> None:
    """Print a run's figures as one JSON line."""
    figures = {"run": run, "days": days, "events": events, "seconds": round(seconds, 2)}
    print(json.dumps(figures | {"rows_read": read.total(), "by_table": dict(sorted(read.items()))}))
    sys.stdout.flush()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--events", type=count, default=1_000_000)
    parser.add_argument("--carts", type=count, default=100_000)
    parser.add_argument("--days", type=count, default=365)
    parser.add_argument(
        "--new", type=count, help="events that arrive then (default: 1 %% of events)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark in a folder of its own, which is removed afterwards."""
    args = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, LocalGcp(Path(folder)) as gcp:
        os.environ |= gcp.environment | {"DBT_TARGET_PATH": f"{folder}/target"}
        new = args.new or max(1, int(args.events * NEW_SHARE))
        measure(gcp, args.events, args.carts, args.days, new)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
