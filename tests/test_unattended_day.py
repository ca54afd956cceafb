"""A day without a person and without a disk: what Terraform starts in Cloud Run, run here.

Command lines, arguments, settings and names of buckets are those of the plan. Added are the
addresses of the local Google Cloud, and a shorter lease for the poller.
"""

from __future__ import annotations

import json
import random
import re
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests

from local_gcp.resources import BUCKET_NAME, PROJECT_ID, make_bucket
from local_gcp.servers import LocalGcp
from tests.support.cart_histories import CartsSource, check_guarantees
from tests.support.cloud_run import CloudRun, Container, Plan
from tests.support.faulty_storage import LOST_REQUEST, Fault, FaultyStorage, faulty_storage
from tests.support.local_gcp_process import until
from tests.support.terraform_cli import terraform_with_a_provider
from tests.support.workflow import Workflow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IMAGE = f"europe-west9-docker.pkg.dev/{PROJECT_ID}/fake-store/pipeline@sha256:{'a' * 64}"
# a killed one's lease is waited for; Terraform leaves it at its default, a minute
LEASE = ("--lease-seconds", "2")
TICK_SECONDS = 1.0
# more at once would only wait for the processor
MOST_AT_ONCE = 3
CARTS = 27
# under 30 % of the carts: a poll holds more, until somebody has looked
MOST_DELETIONS = 6
# what the workflow waits before it looks whether a job has ended
LOOK_SECONDS = 15


class Day:
    """A local GCP with the buckets of the plan, its jobs, and a Cloud Storage that may fail."""

    def __init__(self, gcp: LocalGcp, plan: Plan, storage: FaultyStorage, folder: Path) -> None:
        self.gcp = gcp
        self.plan = plan
        self.storage = storage
        self.carts_url = f"{gcp.api_url}/carts"
        hosts = {n: v for n, v in gcp.environment.items() if n.endswith(("_HOST", "_proxy"))}
        hosts |= {"STORAGE_EMULATOR_HOST": storage.url, "DBT_TARGET": "local"}
        self.cloud_run = CloudRun(folder, plan, hosts)
        self.buckets = {
            address.split('"')[1]: values["name"]
            for address, values in plan.items()
            if address.startswith("google_storage_bucket.") and '"' in address
        }
        for name in self.buckets.values():
            make_bucket(gcp.clients, name)
        self.execution_id = str(uuid.uuid4())

    def poll(self) -> Container:
        """Start the poller as the scheduler does."""
        name = "fake-store-poller"
        return self.cloud_run.start(name, [*self.cloud_run.args(name), *LEASE])

    def carts(self) -> list[dict[str, Any]]:
        """Return what the shop holds now."""
        carts: list[dict[str, Any]] = requests.get(self.carts_url, timeout=5).json()
        return carts

    def run_workflow(self, on_pause: Callable[[], None]) -> None:
        """Run batch, dbt and report; call `on_pause` where a job is to be tried again later."""
        workflow = self.plan['google_workflows_workflow.daily["daily"]']
        place = f"projects/{PROJECT_ID}/locations/europe-west9/workflows/fake-store-daily"
        ours = {
            "name": f"{place}/executions/{self.execution_id}",
            "state": "ACTIVE",
            "startTime": "2026-11-22T04:00:00Z",
        }

        def http(method: str, url: str, sent: Any) -> Any:
            if url.startswith("https://workflowexecutions."):
                return {"executions": [ours]}
            return self.cloud_run.http(method, url, sent)

        environment = {
            "GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID": self.execution_id,
            "GOOGLE_CLOUD_PROJECT_ID": PROJECT_ID,
            "GOOGLE_CLOUD_LOCATION": "europe-west9",
            "GOOGLE_CLOUD_WORKFLOW_ID": "fake-store-daily",
            **workflow["user_env_vars"],
        }

        def sleep(seconds: float) -> None:
            if seconds != LOOK_SECONDS:
                on_pause()

        Workflow(workflow["source_contents"], environment, http, sleep).run()

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query through BigQuery's client."""
        return [dict(row) for row in self.gcp.clients.bigquery.query(sql).result(timeout=30)]

    def bronze_events(self) -> list[bytes]:
        """Return the events as they were delivered, in the order of their arrival."""
        sql = """
            select to_json_string(data) as document from `bronze_data.carts_events_raw`
            order by publish_time, message_id
        """
        return [row["document"].encode() for row in self.query(sql)]

    def published_events(self) -> list[bytes]:
        """Return what the state bucket has as published."""
        found = self.gcp.clients.storage.list_blobs(
            self.buckets["state"], prefix="near_realtime/published/", timeout=10
        )
        return [line for blob in found for line in blob.download_as_bytes().splitlines()]


class Storm:
    """Ticks that overlap, pollers that are ended at any call, and a shop that changes meanwhile."""

    def __init__(self, day: Day, dice: random.Random) -> None:
        self.day = day
        self.dice = dice
        self.ended: Counter[str] = Counter()
        self.deletions = 0
        self._running: list[Container] = []
        # who was asked to end
        self._asked: set[int] = set()

    def run(self, kills: int, overlaps: int) -> None:
        """Go on until so many were killed, and so many found another one at work."""
        while len(self.day.carts()) < CARTS:
            self._create_cart()
        self.day.storage.judge = self._judge
        while self.ended["killed"] < kills or self.ended["stood back"] < overlaps:
            self._running.append(self.day.poll())
            for _ in range(self.dice.randint(1, 3)):
                self._change_shop()
            time.sleep(TICK_SECONDS)
            self._collect(MOST_AT_ONCE - 1)
        self.day.storage.judge = lambda method, address: None
        self._collect(0)

    def _judge(self, method: str, address: str) -> Fault:
        """End somebody at a call of somebody's: a loaded machine comes as far as an idle one."""
        running = [one for one in self._running if one.is_running]
        if running and self.dice.random() < 0.07:
            victim = self.dice.choice(running)
            if self.dice.random() < 0.8:
                victim.signal(signal.SIGKILL)
            elif victim.process.pid not in self._asked:
                # as Cloud Run does at a time-out; a second one would end it at once
                self._asked.add(victim.process.pid)
                victim.signal(signal.SIGTERM)
        return None

    def _collect(self, most: int) -> None:
        """Wait until not more than so many run, and judge those that have ended."""
        until(lambda: sum(one.is_running for one in self._running) <= most)
        ended = [one for one in self._running if not one.is_running]
        self._running = [one for one in self._running if one not in ended]
        for one in ended:
            code = one.end()
            # 3: it left committed events to the next one; SIGTERM: it had not begun
            when_asked = (3, -signal.SIGTERM) if one.process.pid in self._asked else ()
            assert code in (0, -signal.SIGKILL, *when_asked), (code, one.log())
            assert "Traceback" not in one.log(), one.log()
            self.ended["killed"] += code == -signal.SIGKILL
            self.ended["stood back"] += "stood back" in one.log()

    def _create_cart(self) -> None:
        lines = [{"productId": self.dice.randint(1, 20), "quantity": self.dice.randint(1, 4)}]
        lines += lines if self.dice.random() < 0.2 else []
        cart = {"userId": self.dice.randint(1, 10), "date": "2020-03-09T00:00:00.000Z"}
        answer = requests.post(self.day.carts_url, json={**cart, "products": lines}, timeout=5)
        answer.raise_for_status()

    def _change_shop(self) -> None:
        """Create, change or delete a cart."""
        cart = self.dice.choice(self.day.carts())
        url = f"{self.day.carts_url}/{cart['id']}"
        what = self.dice.choice(("create", "change", "change", "delete"))
        if what == "create":
            self._create_cart()
            return
        if what == "delete" and self.deletions < MOST_DELETIONS:
            self.deletions += 1
            requests.delete(url, timeout=5).raise_for_status()
            return
        line = {"productId": self.dice.randint(1, 20), "quantity": self.dice.randint(1, 4)}
        lines = [*cart["products"], line][-3:]
        requests.patch(url, json={"products": lines}, timeout=5).raise_for_status()


def catch_up(day: Day) -> None:
    """Tick until a poll has seen the shop as it is, and what it told has reached bronze."""

    def has_polled() -> bool:
        poller = day.poll()
        assert poller.end() == 0, poller.log()
        if "stood back" in poller.log():
            return False
        summary = json.loads(poller.printed())
        return bool(summary["carts"] == len(day.carts()) and not summary["waiting"])

    until(has_polled)
    published = ids_of(day.published_events())
    until(lambda: ids_of(day.bronze_events()) >= published)


def ids_of(documents: list[bytes]) -> set[str]:
    return {json.loads(document)["id"] for document in documents}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Plan]:
    """Return what plans the unattended pipeline for the shop at an address."""

    def planned(api_url: str) -> Plan:
        folder = tmp_path_factory.mktemp("terraform") / "copy"
        with terraform_with_a_provider(folder) as terraform:
            return terraform.plan(
                "prod",
                image=IMAGE,
                gcp_project_id=PROJECT_ID,
                gcs_bucket_name=BUCKET_NAME,
                fake_store_api_url=api_url,
            )

    return planned


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, plan: Callable[[str], Plan]) -> Iterator[Day]:
    """Pollers through a storm, and after it the workflow, with an outage in its first minute."""
    folder = tmp_path_factory.mktemp("day")
    with LocalGcp(folder / "gcp") as gcp, faulty_storage(gcp.ports["gcs"]) as storage:
        # the real service delivers at least once; here each event comes twice
        gcp.kill("subscription")
        gcp.start("subscription", "--deliver-twice")
        day = Day(gcp, plan(gcp.api_url), storage, folder)
        try:
            Storm(day, random.Random(7)).run(kills=4, overlaps=2)
            catch_up(day)
            storage.judge = lambda method, address: LOST_REQUEST

            def storage_is_back() -> None:
                storage.judge = lambda method, address: None

            day.run_workflow(on_pause=storage_is_back)
            yield day
        finally:
            day.cloud_run.close()


def test_the_bucket_and_bronze_tell_the_shops_history_in_one_generation(day: Day) -> None:
    shop = CartsSource()
    shop.carts = {cart["id"]: cart for cart in day.carts()}
    for documents in (day.bronze_events(), day.published_events()):
        check_guarantees(documents, shop, in_order=False)
        assert len({json.loads(document)["generation"] for document in documents}) == 1
    assert ids_of(day.bronze_events()) == ids_of(day.published_events())
    # nothing that was not committed, or has left, is kept
    names = [blob.name for blob in day.gcp.clients.storage.list_blobs(day.buckets["state"])]
    assert [name for name in names if "/outbox/" in name] == []
    assert len([name for name in names if "/state/" in name]) == 1


def test_the_outage_cost_a_second_attempt_with_the_same_run_id_and_nothing_else(day: Day) -> None:
    ran = [(name.removeprefix("fake-store-"), code) for name, _, code in day.cloud_run.ran]
    assert ran == [("batch", 3), ("batch", 0), ("dbt", 0), ("report", 0)]
    own = day.cloud_run.args("fake-store-batch")
    assert {tuple(args) for name, args, _ in day.cloud_run.ran if name == "fake-store-batch"} == {
        (*own, "--run-id", day.execution_id)
    }
    for entity in ("products", "users", "carts"):
        held = requests.get(f"{day.gcp.api_url}/{entity}", timeout=5).json()
        rows = day.query(f"select _run_id from `bronze_data.{entity}_raw`")
        assert [row["_run_id"] for row in rows] == [day.execution_id] * len(held)


def test_gold_holds_exactly_the_shop_as_it_is(day: Day) -> None:
    products = requests.get(f"{day.gcp.api_url}/products", timeout=5).json()
    prices = {product["id"]: Decimal(str(product["price"])) for product in products}
    expected = sorted(
        (cart["id"], cart["userId"], number, line["productId"], line["quantity"], price)
        for cart in day.carts()
        for number, line in enumerate(cart["products"], start=1)
        for price in [prices[line["productId"]]]
    )
    names = ("cart_id", "user_id", "line_number", "product_id", "quantity", "unit_price")
    rows = day.query("select * from `gold_data.fact_cart_items`")
    assert sorted(tuple(row[name] for name in names) for row in rows) == expected
    [totals] = day.query("select * from `gold_data.kpi_totals`")
    assert totals["value"] == sum(price * quantity for *_, quantity, price in expected)
    assert totals["carts"] == len({cart_id for cart_id, *_ in expected})


def test_gold_counts_each_event_once_though_all_were_delivered_twice(day: Day) -> None:
    deliveries = day.bronze_events()
    told = Counter(json.loads(each)["type"] for each in set(deliveries))
    health = day.query("select * from `gold_data.pipeline_health`")
    assert sum(row["deliveries"] for row in health) == len(deliveries)
    assert sum(row["events"] for row in health) == told.total() <= len(deliveries) // 2
    lifecycle = day.query("select * from `gold_data.kpi_cart_lifecycle`")
    counted = {
        "cart_created": ("snapshot_carts", "created_carts"),
        "cart_modified": ("modifications",),
        "cart_deleted": ("deleted_carts",),
    }
    for kind, columns in counted.items():
        gold = sum(row[column] for row in lifecycle for column in columns)
        assert gold == told[f"com.fakestoreapi.{kind}"]


def test_the_report_in_its_bucket_shows_gold_and_no_trouble(day: Day) -> None:
    bucket = day.gcp.clients.storage.bucket(day.buckets["report"])
    page = bucket.blob("index.html").download_as_text()
    shown = dict(re.findall(r'data-figure="(\w+)" data-value="([^"]*)"', page))
    [totals] = day.query("select * from `gold_data.kpi_totals`")
    assert shown
    assert shown == {name: str(totals[name]) for name in shown}
    assert "The pipeline is well" in page
