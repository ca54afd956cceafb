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
from reporting import gold as reading
from reporting.charts import charts_of
from reporting.gold import Gold, ReportError
from reporting.health import time_in_words, warnings_of
from reporting.output import OutputError, write_page
from reporting.page import render
from reporting.parts import DETAILS, PARTS

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOSTILE = "</script><script>alert('x')</script> \"quoted\" <b>\u202eright to left"
GOLD_MODELS = Path(kpi_report.__file__).parent / "ey_test_tech" / "models" / "gold"


def gold_rows(days: int = 1) -> dict[str, list[dict[str, Any]]]:
    """Return rows for every table that the page shows: a shop in which all is well.

    `days` is how many the pipeline has been at work.
    """
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
                "day": day - timedelta(days=n),
                "snapshot_carts": 7,
                "created_carts": 1,
                "modifications": 2,
                "deleted_carts": 1,
                "average_life_hours": Decimal("0.5"),
            }
            for n in range(days)
        ],
        "pipeline_runs": [
            {
                "entity": "products",
                "status": "loaded",
                "records": 20,
                "quarantined": 0,
                "finished_at": NOW,
                "loaded_at": NOW,
                "run_id": "0b3e6c1e-5d0f-4a4e-9d52-6d4f0a7f2c11",
            }
        ],
        "cart_verification": [
            {
                "observed_at": NOW - timedelta(hours=hours),
                "carts": 7,
                "agreeing": 7,
                "missing": 0,
                "extra": 0,
                "different": 0,
                "unsettled": 0,
                "drifting": 0,
            }
            for hours in (1, 25)
        ],
        "pipeline_health": [
            {
                "day": day - timedelta(days=n),
                "runs": 2,
                "failed_runs": 0,
                "records": 30,
                "quarantined": 0,
                "deliveries": 12,
                "events": 11,
                "duplicates": 1,
                "rejected_events": 0,
                "missing_snapshot_carts": 0,
                "average_lag_seconds": Decimal("0.2"),
                "max_lag_seconds": Decimal("0.5"),
                "verified_through": NOW - timedelta(hours=1, days=n),
            }
            for n in range(days)
        ],
    }


def gold_of(rows: dict[str, list[dict[str, Any]]], age: timedelta = timedelta()) -> Gold:
    return Gold(rows, NOW - age)


def test_nothing_is_wrong_when_all_is_well() -> None:
    assert warnings_of(gold_of(gold_rows()), NOW) == []


@pytest.mark.parametrize(("hours", "number"), [(19, 0), (24, 1), (72, 1)])
def test_gold_that_no_dbt_build_has_renewed_is_said_to_be_old(hours: int, number: int) -> None:
    warnings = warnings_of(gold_of(gold_rows(), timedelta(hours=hours)), NOW)
    assert len(warnings) == number
    assert all(f"{hours} hours ago: no dbt build has succeeded since" in one for one in warnings)


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
        ("pipeline_health", {"missing_snapshot_carts": 2}, "2 carts of a snapshot are missing"),
        ("pipeline_health", {"max_lag_seconds": Decimal(900)}, "took 900 s to Pub/Sub."),
    ],
)
def test_each_thing_that_is_wrong_is_one_sentence(
    table: str, change: dict[str, Any], sentence: str
) -> None:
    gold = gold_rows()
    gold[table][0].update(change)
    warnings = warnings_of(gold_of(gold), NOW)
    assert len(warnings) == 1
    assert sentence in warnings[0]


def test_what_could_not_be_read_is_told_for_a_week_and_an_old_lag_is_not() -> None:
    gold = gold_rows(days=9)
    for day in gold["pipeline_health"][1:]:
        day.update(rejected_events=1, max_lag_seconds=Decimal(900))
    said = warnings_of(gold_of(gold), NOW)
    assert len(said) == 6
    assert all("could not be read" in sentence for sentence in said)


def test_what_gold_cannot_know_is_told_first() -> None:
    gold = gold_of({**gold_rows(), "pipeline_runs": []})
    page = render(gold, NOW, ["dbt <failed>"], project_id="p", dataset_id="gold_data", docs=None)
    assert "<ul><li>dbt &lt;failed&gt;</li><li>No batch run is recorded" in page


def test_every_column_shown_is_in_the_contract_of_its_gold_table() -> None:
    for part in PARTS:
        contract = yaml.safe_load((GOLD_MODELS / f"{part.name}.yml").read_text())
        columns = {column["name"] for column in contract["models"][0]["columns"]}
        assert {column.name for column in part.shown} <= columns


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
        (404, "notFound", "kpi_totals does not exist: check --project-id and GCP_REGION, then run"),
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
    monkeypatch.setattr(reading, "QUERY_TIMEOUT_SECONDS", 0.5)
    url = re.compile(r"http://bigquery\.test/.*")
    responses.post(url, json=bigquery_error(status, reason), status=status)
    page = tmp_path / "index.html"
    page.write_text("the page before")
    assert kpi_report.main(["--project-id", "some-project", "--output", str(page)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert page.read_text() == "the page before"


@pytest.mark.parametrize("blocked", ["the folder is a file", "the page is a folder"])
def test_a_page_that_cannot_be_written_is_one_sentence(blocked: str, tmp_path: Path) -> None:
    page = tmp_path / "report" / "index.html"
    if blocked == "the folder is a file":
        page.parent.write_text("in the way")
    else:
        page.mkdir(parents=True)
    with pytest.raises(OutputError, match=rf"cannot be written to {page} \(.+\): give another"):
        write_page("new", str(page), "p")


def test_a_page_is_replaced_whole_and_its_folder_made(tmp_path: Path) -> None:
    page = tmp_path / "a" / "b" / "index.html"
    write_page("first", str(page), "p")
    before = page.stat().st_ino
    write_page("second", str(page), "p")
    assert page.read_text() == "second"
    # another file under the same name: whoever was reading the first one still can
    assert page.stat().st_ino != before
    assert [file.name for file in page.parent.iterdir()] == ["index.html"]


def test_gold_that_is_older_than_the_report_is_one_sentence() -> None:
    lifecycle = next(part for part in DETAILS if part.name == "kpi_cart_lifecycle")
    with pytest.raises(ReportError, match="Gold table t has no column snapshot_carts"):
        reading.columns_of(lifecycle, {"day": date(2020, 3, 1)}, "t")


def test_a_few_days_are_a_table_and_more_are_a_chart_for_each_kind_of_change() -> None:
    lifecycle = next(part for part in DETAILS if part.name == "kpi_cart_lifecycle")
    assert charts_of(lifecycle, gold_rows(days=2)["kpi_cart_lifecycle"]) == {}
    charts = charts_of(lifecycle, gold_rows(days=3)["kpi_cart_lifecycle"])
    assert list(charts) == ["Created", "Modified", "Deleted"]
    # three bars on an axis of four weeks, so that none fills the width
    first, after_last = charts["Created"]["encoding"]["x"]["scale"]["domain"]
    assert (first["month"], first["date"]) == (2, 2)
    assert (after_last["month"], after_last["date"]) == (3, 2)


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


def page_of(path: Path, gold: dict[str, list[dict[str, Any]]]) -> Path:
    page = render(gold_of(gold), NOW, project_id="p", dataset_id="gold_data", docs=None)
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(browser, page_of(tmp_path / "index.html", gold_rows()))
    yield opened
    opened.page.close()


def test_the_page_asks_for_nothing_and_complains_of_nothing(opened: Opened) -> None:
    assert [url for url in opened.requests if not url.startswith("file:")] == []
    assert opened.errors == []
    # by day, by category and by product; one day of changes is no chart
    assert opened.page.locator(".chart svg").count() == 3


def test_the_page_is_under_three_megabytes(tmp_path: Path) -> None:
    assert page_of(tmp_path / "index.html", gold_rows()).stat().st_size < 3_000_000


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
    opened = Opened(browser, page_of(tmp_path / "empty.html", empty))
    assert "Gold holds no cart yet" in opened.page.inner_text("main")
    assert opened.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1200, 1440])
def test_nothing_runs_out_of_the_page_or_of_its_card(
    browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    path = page_of(tmp_path / "index.html", gold_rows(days=40))
    viewport = {"width": width, "height": 740}
    opened = Opened(browser, path, viewport=viewport, color_scheme=scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    # a table wider than its card scrolls in it, and from a tablet on no table has to
    wide = opened.page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth)"
        ".map(s => s.firstElementChild.id)"
    )
    assert width < 1200 or wide == []
    charts = opened.page.evaluate(
        "[...document.querySelectorAll('.chart')].map(chart => [chart.clientWidth,"
        " chart.querySelector('svg').getBoundingClientRect().width])"
    )
    assert len(charts) == 6
    assert all(drawn <= place for place, drawn in charts)
    background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 22, 29)"}[scheme]


def test_on_a_phone_a_row_is_one_line_and_what_it_is_about_stays_in_sight(
    browser: Any, tmp_path: Path
) -> None:
    path = page_of(tmp_path / "index.html", gold_rows())
    page = Opened(browser, path, viewport={"width": 360, "height": 740}).page
    moved, height, *lefts = page.evaluate(
        "(() => { const table = document.getElementById('pipeline_runs');"
        " const place = table.parentElement; place.scrollLeft = 1000;"
        " const row = table.tBodies[0].rows[0];"
        " return [place.scrollLeft, row.offsetHeight,"
        " ...[place, row.cells[0]].map(box => box.getBoundingClientRect().left)]; })()"
    )
    assert moved > 0
    assert height < 40
    assert lefts[0] == lefts[1]
    # what a shop owner asks first is there without scrolling
    fitting = "id => (place => place.scrollWidth <= place.clientWidth)("
    fitting += "document.getElementById(id).parentElement)"
    assert all(page.evaluate(fitting, name) for name in ("kpi_days", "kpi_categories"))


def test_paper_is_white_whatever_the_screen_is(browser: Any, tmp_path: Path) -> None:
    path = page_of(tmp_path / "index.html", gold_rows(days=40))
    opened = Opened(browser, path, color_scheme="dark", viewport={"width": 1440, "height": 900})
    opened.page.emulate_media(media="print", color_scheme="dark")
    # as wide as A4 between its margins
    opened.page.set_viewport_size({"width": 718, "height": 1000})
    colours = opened.page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        " getComputedStyle(document.querySelector('.chart text')).fill]"
    )
    assert colours == ["rgb(255, 255, 255)", "rgb(0, 0, 0)", "rgb(0, 0, 0)"]
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 718
    too_wide = "[...document.querySelectorAll('.scroll')].some(s => s.scrollWidth > s.clientWidth)"
    assert not opened.page.evaluate(too_wide)


def test_what_is_wrong_is_said_on_top_and_leads_to_the_list(browser: Any, tmp_path: Path) -> None:
    gold = gold_rows()
    gold["pipeline_runs"][0]["status"] = "failed"
    opened = Opened(browser, page_of(tmp_path / "index.html", gold))
    opened.page.get_by_role("link", name="1 thing needs a look").click()
    assert opened.page.url.endswith("#health")
    headings = opened.page.locator("h2").all_inner_texts()
    assert headings == ["The whole shop", "Health", "Details"]


def verification(tmp_path: Path, gold: dict[str, list[dict[str, Any]]]) -> tuple[str, str]:
    """Return the class and the text of the page's first sentence."""
    page = page_of(tmp_path / "index.html", gold).read_text()
    found = re.search(
        r'<header>\s*<h1>[^<]+</h1>\s*<p class="lead verification (\w+)">([^<]+)<', page
    )
    assert found
    return found[1], found[2]


def test_the_first_sentence_says_until_when_the_figures_are_verified(tmp_path: Path) -> None:
    assert verification(tmp_path, gold_rows(days=3)) == (
        "good",
        f"Verified against the shop until {time_in_words(NOW - timedelta(hours=1))}; "
        "0 of 7 carts differ.",
    )


def test_drift_is_red_and_names_the_repair(tmp_path: Path) -> None:
    gold = gold_rows()
    gold["cart_verification"][0] |= {"agreeing": 5, "missing": 1, "different": 1, "drifting": 1}
    status, sentence = verification(tmp_path, gold)
    assert status == "wrong"
    assert sentence.endswith("; 2 of 7 carts differ.")
    (warning,) = warnings_of(gold_of(gold), NOW)
    assert "--new-snapshot" in warning


def test_carts_that_a_poll_may_still_explain_are_named(tmp_path: Path) -> None:
    gold = gold_rows()
    gold["cart_verification"][0] |= {"agreeing": 4, "unsettled": 3}
    assert verification(tmp_path, gold)[1].endswith(
        "; 0 of 7 carts differ, 3 were changing: the next reading of the carts tells."
    )


def test_figures_that_nobody_has_verified_for_two_days_are_doubtful(tmp_path: Path) -> None:
    gold = gold_rows()
    gold["pipeline_health"][0]["verified_through"] = NOW - timedelta(hours=49)
    assert verification(tmp_path, gold)[0] == "doubtful"
    gold["pipeline_health"][0]["verified_through"] = None
    assert verification(tmp_path, gold)[1].startswith("Verified against the shop at no time;")
    gold["cart_verification"] = []
    assert verification(tmp_path, gold)[1].startswith("Not verified against the shop:")


def test_every_amount_of_money_is_named_once(tmp_path: Path) -> None:
    page = page_of(tmp_path / "index.html", gold_rows()).read_text()
    assert page.count("its API names no currency") == 1
    tiles = re.findall(r'data-figure="(\w+)".*?>([^<]+)<small>([^<]+)</small>', page)
    assert [(name, unit) for name, _, unit in tiles] == [
        ("value", "at list price"),
        ("units", "pieces"),
        ("carts", "that exist"),
        ("average_cart_value", "at list price"),
    ]
