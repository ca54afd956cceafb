"""The pipeline from the Fake Store to a star schema, shown on a local Google Cloud.

Each stage is the real script in a process of its own, with its documented flags. Everything that
it leaves lies in one folder, and the user's own state/, events/ and raw/ stay untouched.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.table import Table

from local_gcp.processes import LocalGcpError, end, last_line, spawn
from local_gcp.servers import LocalGcp

BRONZE = "bronze_data"

STAGE_SECONDS = 600.0
CALL_SECONDS = 30.0
LOOK_SECONDS = 0.1
POLL_SECONDS = 1

STAR_SCHEMA = ("dim_products", "dim_users", "dim_dates", "fact_cart_items")
CHANGES = {
    "cart_created": "a new cart of two products",
    "cart_modified": "one more of a product",
    "cart_deleted": "a cart abandoned",
}


@dataclass
class Step:
    """One thing that the demo does: how far it is, and how it ended."""

    show_progress: Callable[[str], None]
    result: str = ""


@dataclass
class Demo:
    """A local Google Cloud, and where the demo's files lie and its words go."""

    gcp: LocalGcp
    console: Console
    start: float = field(default_factory=time.monotonic)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @contextmanager
    def step(self, what: str) -> Iterator[Step]:
        """Show on a terminal that something is at work, and then in one line how it went."""
        began = time.monotonic()
        with self.console.status(what) as status:
            step = Step(lambda how_far: status.update(f"{what}: {how_far}"))
            yield step
        self.say(f"{time.monotonic() - began:5.1f} s  {what:<42} {step.result}")

    def say(self, line: str) -> None:
        """Print a line as it is: whole, so that a path in it can be copied."""
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def launch(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a stage; it ends with this process, if not before."""
        process = spawn(
            [sys.executable, *command],
            self.gcp.log_file(name),
            self.gcp.environment | self.dbt_environment,
            self.gcp.root / "logs" / f"{name}.out",
        )
        self.processes.append(process)
        return process

    @property
    def dbt_environment(self) -> dict[str, str]:
        """Where dbt puts its files, so that two demos do not meet."""
        folder = self.gcp.root / "dbt"
        return {"DBT_TARGET_PATH": str(folder / "target"), "DBT_LOG_PATH": str(folder / "logs")}

    def finish(
        self, name: str, process: subprocess.Popen[bytes], look: Callable[[str], None] | None = None
    ) -> str:
        """Wait for a stage and return what it printed; `look` sees that while it grows.

        Raises LocalGcpError where the stage does not succeed.
        """
        printed = self.gcp.root / "logs" / f"{name}.out"
        log = self.log_of(name)
        deadline = time.monotonic() + STAGE_SECONDS
        while process.poll() is None:
            self.gcp.check()
            if time.monotonic() > deadline:
                raise LocalGcpError(f"{name} did not end; its log is {log}.")
            if look:
                look(printed.read_text(encoding="utf-8"))
            time.sleep(LOOK_SECONDS)
        if process.returncode:
            raise LocalGcpError(
                f"{name} ended with exit code {process.returncode} ({last_line(log)}); its log is "
                f"{log}."
            )
        return printed.read_text(encoding="utf-8")

    def log_of(self, name: str) -> Path:
        """Return the file in which a stage says what went wrong: dbt does so on stdout."""
        says = f"{name}.out" if name.startswith("dbt") else f"{name}.log"
        return self.gcp.root / "logs" / says

    def rows(self, sql: str) -> list[Mapping[str, Any]]:
        """Return the rows of a query, through BigQuery's client."""
        bounds: dict[str, Any] = {"timeout": CALL_SECONDS, "retry": None, "job_retry": None}
        result = self.gcp.clients.bigquery.query(sql, **bounds)
        return [dict(row) for row in result.result(timeout=CALL_SECONDS)]

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        return int(self.rows(f"select count(*) as n from {table}")[0]["n"])  # noqa: S608

    def await_events(self, number: int, watched: subprocess.Popen[bytes]) -> None:
        """Wait until so many events have arrived in bronze."""
        deadline = time.monotonic() + STAGE_SECONDS
        while (arrived := self.count(f"{BRONZE}.carts_events_raw")) < number:
            self.gcp.check()
            if watched.poll() is not None:
                self.finish("near_realtime_ingestion_2", watched)
            if time.monotonic() > deadline:
                raise LocalGcpError(
                    f"Only {arrived} of {number} events reached bronze; the logs are in "
                    f"{self.gcp.root / 'logs'}."
                )
            time.sleep(LOOK_SECONDS)


def call(method: str, url: str, body: object = None) -> Any:
    """Ask the Fake Store, and return its JSON."""
    response = requests.request(method, url, json=body, timeout=CALL_SECONDS)
    response.raise_for_status()
    return response.json()


def change_carts(api_url: str) -> Iterator[str]:
    """Create, modify and delete a cart, one at a time; yield the type of event to expect."""
    carts = call("GET", f"{api_url}/carts")
    products = [product["id"] for product in call("GET", f"{api_url}/products?limit=2")]
    new_cart = {
        "userId": carts[0]["userId"],
        "date": "2020-03-09T00:00:00.000Z",
        "products": [{"productId": product_id, "quantity": 2} for product_id in products],
    }
    call("POST", f"{api_url}/carts", new_cart)
    yield "cart_created"
    first_line, *other_lines = carts[0]["products"]
    lines = [{**first_line, "quantity": first_line["quantity"] + 1}, *other_lines]
    call("PATCH", f"{api_url}/carts/{carts[0]['id']}", {"products": lines})
    yield "cart_modified"
    call("DELETE", f"{api_url}/carts/{carts[-1]['id']}")
    yield "cart_deleted"


def ingest(demo: Demo) -> None:
    """Run both ingestion scripts, side by side, and change carts while the second one polls."""
    root = demo.gcp.root
    batch = demo.launch(
        "batch_ingestion", "batch_ingestion.py", "--raw-dir", str(root / "raw"), "--json"
    )
    near_realtime = demo.launch(
        "near_realtime_ingestion_2",
        "near_realtime_ingestion_2.py",
        *("--poll-interval", str(POLL_SECONDS)),
        *("--state-file", str(root / "state" / "carts_state.json")),
        *("--events-dir", str(root / "events")),
    )
    with demo.step("batch_ingestion.py") as step:
        demo.finish("batch_ingestion", batch)
        loaded = {name: demo.count(f"{BRONZE}.{name}_raw") for name in ("products", "users")}
        step.result = f"{loaded['products']} products, {loaded['users']} users in bronze"
    expected = len(call("GET", f"{demo.gcp.api_url}/carts"))
    with demo.step("near_realtime_ingestion_2.py: cold start") as step:
        demo.await_events(expected, near_realtime)
        step.result = f"{expected} carts, as many events in bronze"
    changes = change_carts(demo.gcp.api_url)
    for number, what in enumerate(CHANGES.values(), start=expected + 1):
        with demo.step(f"  {what}") as step:
            step.result = f"{next(changes)} in bronze"
            demo.await_events(number, near_realtime)
    end(near_realtime)
    near_realtime.wait(STAGE_SECONDS)


def transform(demo: Demo) -> None:
    """Build silver and gold."""
    with demo.step("dbt build") as step:
        # bqemulator answers one at a time; meanwhile dbt prepares another
        models = ("build", "--exclude-resource-type", "unit_test")
        dbt = launch_dbt(demo, "dbt", *models, "--threads", "2")
        printed = demo.finish("dbt", dbt, lambda text: step.show_progress(how_far(text)))
        step.result = how_far(printed)


def launch_dbt(demo: Demo, name: str, *command: str) -> subprocess.Popen[bytes]:
    """Start a dbt command on the project."""
    folders = ("--project-dir", "ey_test_tech", "--profiles-dir", "ey_test_tech")
    return demo.launch(name, "-m", "dbt.cli.main", *command, *folders)


def how_far(printed: str) -> str:
    """Return what dbt said last of its nodes: `53 of 147`, or the counts at the end."""
    said = re.findall(r"\d+ of \d+|PASS=.*", printed)
    return said[-1] if said else "reading the project"


@contextmanager
def report(demo: Demo) -> Iterator[Path]:
    """Write the report, and the page on the tables that it links to, while figures are shown."""
    page = demo.gcp.root / "report" / "index.html"
    # bqemulator cannot tell the catalog; columns and lineage come from the project itself
    generate = ("docs", "generate", "--static", "--empty-catalog", "--no-compile")
    docs = launch_dbt(demo, "dbt_docs", *generate)
    link = "../dbt/target/static_index.html"
    process = demo.launch("kpi_report", "kpi_report.py", "--output", str(page), "--docs", link)
    yield page
    demo.console.print()
    with demo.step("kpi_report.py"):
        demo.finish("kpi_report", process)
    with demo.step("dbt docs generate"):
        demo.finish("dbt_docs", docs)


def show(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        # money comes with the nine decimals of NUMERIC
        table.add_row(*(f"{v:.2f}" if isinstance(v, Decimal) else str(v) for v in row.values()))
    console.print(f"\n{title}", style="bold")
    console.print(table)


def show_results(demo: Demo) -> None:
    """Print the counts at each stage, the star schema and the KPIs, read from BigQuery."""
    gcp = demo.gcp
    bucket_name = gcp.environment["GCS_BUCKET_NAME"]
    objects = list(gcp.clients.storage.list_blobs(bucket_name, timeout=CALL_SECONDS))
    bronze = ("products_raw", "users_raw", "carts_events_raw", "ingestion_runs")
    stages = [{"stage": "raw objects in Cloud Storage", "count": len(objects)}]
    stages += [
        {"stage": f"rows of {table}", "count": demo.count(table)}
        for table in (
            *(f"{BRONZE}.{name}" for name in bronze),
            *("silver_data.stg_products", "silver_data.stg_users", "silver_data.stg_cart_events"),
        )
    ]
    show(demo.console, "From the API to silver", stages)
    star = [{"table": name, "rows": demo.count(f"gold_data.{name}")} for name in STAR_SCHEMA]
    show(demo.console, "Star schema, in gold_data", star)
    totals = demo.rows(
        "select carts, cart_lines, units, value, average_cart_value from gold_data.kpi_totals"
    )
    show(demo.console, "What is in the carts now (kpi_totals)", totals)
    categories = demo.rows(
        "select category, carts, units, value from gold_data.kpi_categories order by value desc"
    )
    show(demo.console, "By category (kpi_categories)", categories)


def show_places(demo: Demo, page: Path) -> None:
    """Print where everything lies."""
    root, here = demo.gcp.root, Path.cwd()
    places = {
        "raw objects": root / "raw",
        "their copies in the bucket": root / "gcs" / demo.gcp.environment["GCS_BUCKET_NAME"],
        "events published": root / "events" / "published",
        "state of the carts": root / "state" / "carts_state.json",
        "compiled SQL": root / "dbt" / "target" / "run",
        "logs": root / "logs",
        "report, to open in a browser": page,
        "tables and their lineage": root / "dbt" / "target" / "static_index.html",
    }
    demo.console.print()
    for what, path in places.items():
        shown = path.relative_to(here) if path.is_relative_to(here) else path
        demo.say(f"{what + ':':<30} {shown}")


def run_demo(gcp: LocalGcp, on_ready: Callable[[LocalGcp], None]) -> int:
    """Run the whole pipeline on a local Google Cloud that has not started yet."""
    demo = Demo(gcp, Console())
    try:
        with demo.step("the local Google Cloud starts"):
            gcp.__enter__()
        on_ready(gcp)
        for line in gcp.servers.values():
            demo.say(f"         {line}")
        ingest(demo)
        transform(demo)
        with report(demo) as page:
            show_results(demo)
        show_places(demo, page)
    finally:
        for process in demo.processes:
            end(process)
        gcp.__exit__()
    demo.say(f"\nDone in {time.monotonic() - demo.start:.0f} s.")
    return 0
