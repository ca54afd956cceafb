"""The pipeline from the Fake Store to a star schema, shown on a local Google Cloud.

Each stage is the real script in a process of its own, with its documented flags. Everything that
it leaves lies in one folder, and the user's own state/, events/ and raw/ stay untouched.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.table import Table

from ingestion.project import PROJECT_FOLDER
from local_gcp.processes import end
from local_gcp.resources import BRONZE_DATASET, BRONZE_TABLES
from local_gcp.servers import LocalGcp
from local_gcp.shop_data import ENTITIES
from local_gcp.stages import STAGE_SECONDS, Stages

SHOP_SECONDS = 30.0
POLL_SECONDS = 0.5
# start, batch, cold start, three changes, dbt, report
STEPS = 8

STAR_SCHEMA = ("dim_products", "dim_users", "dim_dates", "fact_cart_items")
CHANGES = ("a new cart of two products", "one more of a product", "a cart abandoned")


def ask_shop(method: str, url: str, body: object = None) -> Any:
    """Ask the Fake Store, and return its JSON."""
    response = requests.request(method, url, json=body, timeout=SHOP_SECONDS)
    response.raise_for_status()
    return response.json()


def change_carts(api_url: str) -> Iterator[str]:
    """Create, modify and delete a cart, one at a time; yield the event to expect, in words."""
    carts = ask_shop("GET", f"{api_url}/carts")
    products = [product["id"] for product in ask_shop("GET", f"{api_url}/products?limit=2")]
    new_cart = {
        "userId": carts[0]["userId"],
        "date": "2020-03-09T00:00:00.000Z",
        "products": [{"productId": product_id, "quantity": 2} for product_id in products],
    }
    created = ask_shop("POST", f"{api_url}/carts", new_cart)
    yield f"cart_created: cart {created['id']}, 2 each of products {products[0]} and {products[1]}"
    first_line, *other_lines = carts[0]["products"]
    more = first_line["quantity"] + 1
    lines = [{**first_line, "quantity": more}, *other_lines]
    ask_shop("PATCH", f"{api_url}/carts/{carts[0]['id']}", {"products": lines})
    yield (
        f"cart_modified: cart {carts[0]['id']}, product {first_line['productId']} from "
        f"{first_line['quantity']} to {more}"
    )
    ask_shop("DELETE", f"{api_url}/carts/{carts[-1]['id']}")
    yield f"cart_deleted: cart {carts[-1]['id']}, of user {carts[-1]['userId']}"


def run_ingestion(stages: Stages) -> list[str]:
    """Run both ingestion scripts, side by side, and change carts while the second one polls.

    Returns what was changed, in words.
    """
    batch = stages.launch("batch_ingestion", "batch_ingestion.py", "--entities", *ENTITIES)
    near_realtime = stages.launch(
        "near_realtime_ingestion_2",
        "near_realtime_ingestion_2.py",
        *("--poll-interval", str(POLL_SECONDS)),
    )
    with stages.step("batch_ingestion.py") as step:
        stages.finish("batch_ingestion", batch)
        loaded = [f"{stages.count(f'{BRONZE_DATASET}.{one}_raw')} {one}" for one in ENTITIES]
        step.result = f"{', '.join(loaded)} in bronze"
    expected = len(ask_shop("GET", f"{stages.gcp.api_url}/carts"))
    with stages.step("near_realtime_ingestion_2.py: cold start") as step:
        stages.await_events(expected, near_realtime, step.show_progress)
        step.result = f"{expected} carts, as many events in bronze"
    changed = []
    changes = change_carts(stages.gcp.api_url)
    for number, what in enumerate(CHANGES, start=expected + 1):
        with stages.step(f"  {what}") as step:
            changed.append(next(changes))
            stages.await_events(number, near_realtime, step.show_progress)
            step.result = f"{changed[-1].partition(':')[0]} in bronze"
    end(near_realtime)
    near_realtime.wait(STAGE_SECONDS)
    return changed


def launch_dbt(stages: Stages) -> subprocess.Popen[bytes]:
    """Start a dbt that reads its project now, and builds when run_dbt says so."""
    folders = ("--project-dir", "ey_test_tech", "--profiles-dir", "ey_test_tech")
    command = ("-m", "local_gcp.dbt_build", str(stages.bronze_is_ready), *folders)
    return stages.launch("dbt", *command)


def run_dbt(stages: Stages, dbt: subprocess.Popen[bytes]) -> None:
    """Build silver and gold."""
    stages.bronze_is_ready.touch()
    with stages.step("dbt build") as step:
        printed = stages.finish("dbt", dbt, lambda text: step.show_progress(*nodes_done(text)))
        step.result = "".join(re.findall(r"PASS=.*", printed)[-1:])


def nodes_done(printed: str) -> tuple[int, int | None]:
    """Return how many nodes dbt has done, and of how many: None while it reads the project."""
    said = re.findall(r"(\d+) of (\d+) (?!START)", printed)
    return (len(said), int(said[-1][1])) if said else (0, None)


@contextmanager
def write_report(stages: Stages) -> Iterator[Path]:
    """Write the report while figures are shown."""
    page = stages.gcp.root / "report" / "index.html"
    link = "../dbt/target/static_index.html"
    process = stages.launch("kpi_report", "kpi_report.py", "--output", str(page), "--docs", link)
    yield page
    stages.say()
    with stages.step("kpi_report.py"):
        stages.finish("kpi_report", process)


def print_table(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        # money comes with the nine decimals of NUMERIC
        table.add_row(*(f"{v:.2f}" if isinstance(v, Decimal) else str(v) for v in row.values()))
    console.print(f"\n{title}", style="bold")
    console.print(table)


def print_figures(stages: Stages) -> None:
    """Print the counts at each stage, the star schema and the KPIs, read from BigQuery."""
    gcp = stages.gcp
    bucket_name = gcp.environment["GCS_BUCKET_NAME"]
    objects = list(gcp.clients.storage.list_blobs(bucket_name, timeout=SHOP_SECONDS))
    silver = ("stg_products", "stg_users", "stg_cart_events")
    tables = [*(f"{BRONZE_DATASET}.{one}" for one in BRONZE_TABLES)]
    tables += [f"silver_data.{one}" for one in silver]
    counts = [{"stage": "raw objects in Cloud Storage", "count": len(objects)}]
    counts += [{"stage": f"rows of {table}", "count": stages.count(table)} for table in tables]
    print_table(stages.console, "From the API to silver", counts)
    star = [{"table": name, "rows": stages.count(f"gold_data.{name}")} for name in STAR_SCHEMA]
    print_table(stages.console, "Star schema, in gold_data", star)
    totals = stages.rows(
        "select carts, cart_lines, units, value, average_cart_value from gold_data.kpi_totals"
    )
    print_table(stages.console, "What is in the carts now (kpi_totals)", totals)
    categories = stages.rows(
        "select category, carts, units, value from gold_data.kpi_categories order by value desc"
    )
    print_table(stages.console, "By category (kpi_categories)", categories)


def print_places(stages: Stages, page: Path) -> None:
    """Print where everything lies."""
    root, environment = stages.gcp.root, stages.environment
    places = {
        "raw objects": Path(environment["RAW_DIR"]),
        "their copies in the bucket": root / "gcs" / environment["GCS_BUCKET_NAME"],
        "events published": Path(environment["EVENTS_DIR"]) / "published",
        "state of the carts": Path(environment["STATE_FILE"]),
        "compiled SQL": root / "dbt" / "target" / "run",
        "logs": root / "logs",
        "report": page,
        "tables and their lineage": root / "dbt" / "target" / "static_index.html",
    }
    heading(stages, "Where it lies")
    for what, path in places.items():
        stages.say(f"{what + ':':<28} {seen_from(Path.cwd(), path)}")


def print_changes(stages: Stages, changed: Sequence[str]) -> None:
    """Print what the demo changed in the shop, and where the report shows it."""
    heading(stages, "What changed while it polled")
    for change in changed:
        stages.say(change)
    stages.say(
        "The report counts them under 'What the polls saw'; the new cart is 2020-03-09 in 'Value "
        "by day'."
    )


def print_next_commands(stages: Stages, page: Path) -> None:
    """Print commands to go on with, and how the same is done on Google Cloud."""
    python = shlex.quote(str(seen_from(PROJECT_FOLDER, Path(sys.executable))))
    module = f"{python} -m local_gcp"
    poll = f"{python} near_realtime_ingestion_2.py --once"
    commands = {
        "Open the report": [how_to_open(page, python)],
        "Poll by hand, and change a cart yourself; the last line ends what the first began": [
            f"rm -f .env.local; {module} up > .env.local &",
            # ends too where what was started has ended, which has said why
            "until grep -qs ready .env.local || ! kill -0 $! ; do sleep 1; done",
            ". <(grep export .env.local)",
            poll,
            f"curl -s -o /dev/null -X DELETE $FAKE_STORE_API_URL/carts/1; {poll}",
            "kill %%",
        ],
        "Start over": [f"{module} demo"],
    }
    heading(stages, "Go on")
    if Path.cwd() != PROJECT_FOLDER:
        stages.say(f"In {PROJECT_FOLDER}:")
    for what, lines in commands.items():
        stages.say(f"{what}:")
        for line in lines:
            stages.say(f"  {line}")
    stages.say(
        "On Google Cloud the same scripts run, with a project in .env and without an emulator:\n"
        "  the guide in README.md, from start_apis_GCP.py and terraform apply to kpi_report.py"
    )


def how_to_open(page: Path, python: str) -> str:
    """Return a command that opens the page, or where it is to be opened from."""
    try:
        webbrowser.get()
    except webbrowser.Error:
        # a container, or a machine that is far away
        return f"{seen_from(PROJECT_FOLDER, page)}, in a browser: none was found here"
    return f"{python} -m webbrowser {shlex.quote(page.as_uri())}"


def heading(stages: Stages, title: str) -> None:
    """Print the title of what follows."""
    stages.console.print(f"\n{title}", style="bold")


def seen_from(folder: Path, path: Path) -> Path:
    """Return a path as short as it can be typed in a folder."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def run_demo(gcp: LocalGcp, on_ready: Callable[[LocalGcp], None]) -> int:
    """Run the whole pipeline on a local Google Cloud that has not started yet."""
    began = time.monotonic()
    stages = Stages(gcp, Console(), STEPS)
    try:
        dbt = launch_dbt(stages)
        with stages.step("the local Google Cloud starts"):
            gcp.__enter__()
        on_ready(gcp)
        for line in gcp.servers.values():
            stages.say(f"         {line}")
        changed = run_ingestion(stages)
        run_dbt(stages, dbt)
        with write_report(stages) as page:
            print_figures(stages)
        print_places(stages, page)
        print_changes(stages, changed)
        print_next_commands(stages, page)
    finally:
        for process in stages.processes:
            end(process)
        gcp.__exit__()
    stages.say(f"\nDone in {time.monotonic() - began:.0f} s.")
    return 0
