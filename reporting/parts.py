"""What the report shows: which gold tables, which of their columns, and in which units."""

from __future__ import annotations

from dataclasses import dataclass

# the one place that says what money means on the page
MONEY_NOTE = (
    "Value is list price × quantity, in the shop's own currency: its API names no currency, and "
    "carts have no price of their own."
)


@dataclass(frozen=True)
class Column:
    """One column of a table on the page; `kind` is text, id, date, number or money."""

    name: str
    title: str
    kind: str = "text"
    unit: str = ""
    # read for a sentence, and no column of the table
    is_shown: bool = True


@dataclass(frozen=True)
class Part:
    """One section: a gold table as it is, its chart and its table on the page."""

    name: str
    title: str
    note: str
    order_by: str
    columns: tuple[Column, ...]
    bars_by: str = ""  # one chart: a bar of `value` for each of these that has some
    days_of: tuple[str, ...] = ()  # a chart for each of these: a bar for each day

    @property
    def shown(self) -> tuple[Column, ...]:
        """The columns of its table on the page."""
        return tuple(column for column in self.columns if column.is_shown)


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
        Column("value", "Value", "money", unit="at list price"),
        Column("units", "Units", "number", unit="pieces"),
        Column("carts", "Carts", "number", unit="that exist"),
        Column("average_cart_value", "Average cart", "money", unit="at list price"),
        Column("first_cart_date", "First cart", "date"),
        Column("last_cart_date", "Last cart", "date"),
    ),
)
HEALTH = (
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
            Column("run_id", "Run", "id"),
        ),
    ),
    Part(
        "cart_verification",
        "Checked against the shop",
        "Snapshots of the carts as the API gave them, against the carts made from events as of "
        "then. Open: a difference that a poll may still explain. Drifting: in two snapshots.",
        "observed_at desc",
        (
            Column("observed_at", "Read (UTC)", "date"),
            Column("carts", "Carts", "number"),
            Column("agreeing", "Agreeing", "number"),
            Column("missing", "Missing", "number"),
            Column("extra", "Too many", "number"),
            Column("different", "Different", "number"),
            Column("unsettled", "Open", "number"),
            Column("drifting", "Drifting", "number"),
        ),
    ),
    Part(
        "pipeline_health",
        "The pipeline by day",
        "Duplicates are deliveries of an event that was known, absorbed; lag is poll to Pub/Sub.",
        "day desc",
        (
            Column("day", "Day", "date"),
            Column("runs", "Runs", "number"),
            Column("failed_runs", "Failed", "number"),
            Column("records", "Records", "number"),
            Column("quarantined", "Quaran\u00adtined", "number"),
            Column("deliveries", "Deliv\u00aderies", "number"),
            Column("events", "Events", "number"),
            Column("duplicates", "Dupli\u00adcates", "number"),
            Column("rejected_events", "Rejected", "number"),
            Column("average_lag_seconds", "Average lag,\u00a0s", "number"),
            Column("max_lag_seconds", "Longest lag,\u00a0s", "number"),
            Column("missing_snapshot_carts", "Missing", "number", is_shown=False),
            Column("verified_through", "Verified until (UTC)", "date", is_shown=False),
        ),
    ),
)
DETAILS = (
    Part(
        "kpi_days",
        "Value by day",
        "By the carts' own date.",
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
        "Carts found by a cold start, created, modified and deleted, by day.",
        "day desc",
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
)
PARTS = (TOTALS, *HEALTH, *DETAILS)
