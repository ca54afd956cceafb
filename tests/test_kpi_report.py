"""The report: what it says is what gold says, and the page is safe, whole and usable."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import responses
import yaml

import kpi_report

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOSTILE = "</script><script>alert('x')</script> \"quoted\" <b>\u202eright to left"
GOLD_MODELS = Path(kpi_report.__file__).parent / "ey_test_tech" / "models" / "gold"


def gold_rows() -> dict[str, list[dict[str, Any]]]:
    """Return rows for every table that the page shows: a shop in which all is well."""
    day = date(2020, 3, 1)
    return {
        "kpi_totals": [
            {
                "value": Decimal("4691.27"),
                "units": 42,
                "carts": 7,
                "average_cart_value": Decimal("670.18"),
                "first_cart_date": date(2020, 1, 1),
                "last_cart_date": date(2020, 3, 2),
            }
        ],
        "kpi_days": [
            {
                "date_day": day + timedelta(days=n),
                "carts": n,
                "units": n,
                "value": Decimal(n * 100),
            }
            for n in range(1, 4)
        ],
        "kpi_categories": [
            {"category": "men's clothing", "carts": 5, "units": 31, "value": Decimal("2646.44")},
            {"category": "jewelery", "carts": 2, "units": 4, "value": Decimal("1410.98")},
        ],
        "kpi_products": [
            {
                "title": HOSTILE if n == 1 else f"Product {n}",
                "category": "electronics",
                "list_price": Decimal(n),
                "carts": n,
                "units": n,
                "value": Decimal(1000 * n),
            }
            for n in range(1, 12)
        ],
        "kpi_users": [
            {
                "user_id": None,
                "city": "unknown",
                "carts": 0,
                "units": 0,
                "value": Decimal(0),
                "average_cart_value": None,
                "first_cart_date": None,
                "last_cart_date": None,
            }
        ],
        "kpi_cart_lifecycle": [
            {
                "day": day,
                "snapshot_carts": 7,
                "created_carts": 1,
                "modifications": 2,
                "deleted_carts": 1,
                "average_life_hours": Decimal("0.5"),
            }
        ],
        "pipeline_runs": [
            {
                "entity": "products",
                "status": "loaded",
                "records": 20,
                "quarantined": 0,
                "finished_at": NOW,
                "loaded_at": NOW,
                "run_id": "0b3e",
            }
        ],
        "pipeline_health": [
            {
                "day": day,
                "runs": 2,
                "failed_runs": 0,
                "records": 30,
                "quarantined": 0,
                "deliveries": 12,
                "events": 11,
                "duplicates": 1,
                "rejected_events": 0,
                "average_lag_seconds": Decimal("0.2"),
                "max_lag_seconds": Decimal("0.5"),
            }
        ],
    }


def test_nothing_is_wrong_when_all_is_well() -> None:
    assert kpi_report.warnings_of(gold_rows(), NOW) == []


@pytest.mark.parametrize(
    ("table", "change", "sentence"),
    [
        ("kpi_totals", {"carts": 0}, "Gold holds no cart yet"),
        ("pipeline_runs", {"status": "failed"}, "The newest run of products ended failed."),
        ("pipeline_runs", {"quarantined": 3}, "The newest run of products quarantined 3 records."),
        ("pipeline_runs", {"loaded_at": None}, "No run of products was loaded in the last 48"),
        (
            "pipeline_runs",
            {"loaded_at": NOW - timedelta(hours=49)},
            "No run of products was loaded in the last 48",
        ),
        ("pipeline_health", {"rejected_events": 2}, "2 events of 2020-03-01 could not be read."),
        ("pipeline_health", {"max_lag_seconds": Decimal(900)}, "took 900 s to Pub/Sub."),
    ],
)
def test_each_thing_that_is_wrong_is_one_sentence(
    table: str, change: dict[str, Any], sentence: str
) -> None:
    gold = gold_rows()
    gold[table][0].update(change)
    warnings = kpi_report.warnings_of(gold, NOW)
    assert len(warnings) == 1
    assert sentence in warnings[0]


def test_what_gold_cannot_know_is_told_first() -> None:
    gold = {**gold_rows(), "pipeline_runs": []}
    page = kpi_report.render(
        gold, NOW, ["dbt <failed>"], project_id="p", dataset_id="gold_data", docs=None
    )
    assert "<ul><li>dbt &lt;failed&gt;</li><li>No batch run is recorded" in page


def test_every_column_shown_is_in_the_contract_of_its_gold_table() -> None:
    for part in (kpi_report.TOTALS, *kpi_report.PARTS):
        contract = yaml.safe_load((GOLD_MODELS / f"{part.name}.yml").read_text())
        columns = {column["name"] for column in contract["models"][0]["columns"]}
        assert {column.name for column in part.columns} <= columns


def test_a_placeholder_project_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GCP_PROJECT_ID", "your-project-id")
    assert kpi_report.main([]) == 2
    assert "edit GCP_PROJECT_ID in .env" in capsys.readouterr().err


def bigquery_error(status: int, reason: str) -> dict[str, Any]:
    """Return an error as BigQuery words it."""
    error = {"message": f"{reason}: gold", "domain": "global", "reason": reason}
    return {"error": {"code": status, "message": error["message"], "errors": [error]}}


@pytest.mark.parametrize(
    ("status", "reason", "sentence"),
    [
        (404, "notFound", "kpi_totals does not exist: check --project-id, then run dbt build"),
        (403, "accessDenied", "No permission to read some-project.gold_data.kpi_totals: grant"),
        (503, "backendError", "BigQuery did not give some-project.gold_data.kpi_totals"),
    ],
)
@responses.activate
def test_what_bigquery_refuses_is_one_sentence_and_exit_1(
    status: int,
    reason: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://bigquery.test")
    monkeypatch.setattr(kpi_report, "QUERY_TIMEOUT_SECONDS", 0.5)
    url = re.compile(r"http://bigquery\.test/.*")
    responses.post(url, json=bigquery_error(status, reason), status=status)
    page = tmp_path / "index.html"
    assert kpi_report.main(["--project-id", "some-project", "--output", str(page)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert not page.exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no chromium on this machine: apt install chromium")
    with sync_api.sync_playwright() as playwright:
        # as root, which CI often is, Chromium has no sandbox to offer
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page in the browser with what it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type == "error" else None,
        )
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]")

    def column(self, table: str, index: int) -> list[str]:
        """Return the visible texts of one column."""
        cells = self.page.locator(f"#{table} tbody tr:visible td:nth-child({index})")
        return [text.strip() for text in cells.all_inner_texts()]


def write_page(path: Path, gold: dict[str, list[dict[str, Any]]]) -> Path:
    page = kpi_report.render(gold, NOW, project_id="p", dataset_id="gold_data", docs=None)
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(browser, write_page(tmp_path / "index.html", gold_rows()))
    yield opened
    opened.page.close()


def test_the_page_asks_for_nothing_and_complains_of_nothing(opened: Opened) -> None:
    assert [url for url in opened.requests if not url.startswith("file:")] == []
    assert opened.errors == []
    assert opened.page.locator(".chart svg").count() == 4


def test_the_page_is_under_three_megabytes(tmp_path: Path) -> None:
    assert write_page(tmp_path / "index.html", gold_rows()).stat().st_size < 3_000_000


def test_figures_on_the_page_are_golds(opened: Opened) -> None:
    figures = opened.page.locator("dd[data-figure]")
    shown = {f.get_attribute("data-figure"): f.get_attribute("data-value") for f in figures.all()}
    assert shown == {name: str(value) for name, value in gold_rows()["kpi_totals"][0].items()}
    assert opened.column("kpi_categories", 4) == ["2,646.44", "1,410.98"]
    assert opened.column("kpi_users", 6) == ["–"]


def test_hostile_text_is_shown_as_text(opened: Opened) -> None:
    assert HOSTILE in opened.column("kpi_products", 1)
    assert opened.page.locator("table script, table b").count() == 0


def test_a_click_on_a_heading_sorts_by_number_and_back(opened: Opened) -> None:
    heading = opened.page.locator("#kpi_products th button").nth(5)
    heading.click()
    assert opened.column("kpi_products", 6)[:2] == ["1,000.00", "2,000.00"]
    heading.press("Enter")
    assert opened.column("kpi_products", 6)[:2] == ["11,000.00", "10,000.00"]
    assert opened.page.locator("#kpi_products th[aria-sort=descending]").count() == 1


def test_the_filter_keeps_the_rows_that_match(opened: Opened) -> None:
    opened.page.locator("input[data-filters=kpi_products]").fill("product 1")
    assert opened.column("kpi_products", 1) == ["Product 10", "Product 11"]


def test_empty_gold_gives_a_page_that_says_so(browser: Any, tmp_path: Path) -> None:
    empty: dict[str, list[dict[str, Any]]] = {table: [] for table in gold_rows()}
    opened = Opened(browser, write_page(tmp_path / "empty.html", empty))
    assert "Gold holds no cart yet" in opened.page.inner_text("main")
    assert opened.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, tmp_path: Path, scheme: str) -> None:
    path = write_page(tmp_path / "index.html", gold_rows())
    viewport = {"width": 360, "height": 740}
    opened = Opened(browser, path, viewport=viewport, color_scheme=scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 360
    background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 22, 29)"}[scheme]
