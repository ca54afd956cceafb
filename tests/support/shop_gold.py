"""What every gold table must hold for a shop of shop_history, worked out in plain Python."""

from __future__ import annotations

import calendar
import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from tests.support.dbt_warehouse import today
from tests.support.shop_history import UNKNOWN_DAY, Row, Shop, Version

UNKNOWN_FROM = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def gold(shop: Shop) -> dict[str, list[Row]]:
    """Return the rows of every gold table, by table."""
    lines = fact_cart_items(shop)
    carts = fact_carts(shop, lines)
    return {
        "dim_products": dimension(shop, "products"),
        "dim_users": dimension(shop, "users"),
        "dim_dates": dim_dates(days_of(shop, carts)),
        "cart_verification": [cart_verification(shop)],
        "fact_carts": carts,
        "fact_cart_events": fact_cart_events(shop),
        "fact_cart_items": lines,
        "kpi_totals": [totals_of(carts) | cart_figures(carts)],
        "kpi_days": kpi_days(carts),
        "kpi_products": kpi_products(shop, lines),
        "kpi_categories": kpi_categories(shop, lines),
        "kpi_users": kpi_users(shop, carts),
        "kpi_cart_lifecycle": kpi_cart_lifecycle(shop),
        "pipeline_health": pipeline_health(shop),
        "pipeline_runs": pipeline_runs(shop),
    }


def rounded(value: Decimal | float, places: int) -> Decimal:
    """Round half away from zero, as BigQuery's NUMERIC does."""
    return Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def key_of(number: int, version: Version) -> str:
    """Return the surrogate key of a version."""
    return f"{number}@{(version.valid_from - EPOCH) // dt.timedelta(microseconds=1)}"


def dimension(shop: Shop, entity: str) -> list[Row]:
    """Return dim_products or dim_users."""
    noun = entity.removesuffix("s")
    unknown = {"title": "unknown", "category": "unknown", "price": None}
    rows = [
        {
            f"{noun}_key": "unknown",
            f"{noun}_id": None,
            **(unknown if noun == "product" else {"city": "unknown"}),
            "is_listed": False,
            "valid_from": UNKNOWN_FROM,
            "valid_to": None,
            "is_current": True,
        }
    ]
    for number, versions in shop.versions[entity].items():
        rows += [
            {
                f"{noun}_key": key_of(number, version),
                f"{noun}_id": number,
                **version.attributes,
                "is_listed": version.is_listed,
                "valid_from": version.valid_from,
                "valid_to": version.valid_to,
                "is_current": version.valid_to is None,
            }
            for version in versions
        ]
    return rows


def version_at(versions: list[Version], moment: dt.datetime) -> Version:
    """Return the version that held, or the first where history knows none."""
    return (
        [v for v in versions if v.valid_from <= moment][-1]
        if (versions[0].valid_from <= moment)
        else versions[0]
    )


def fact_cart_items(shop: Shop) -> list[Row]:
    """Return the lines of the carts that exist, priced as of each cart's last change."""
    rows = []
    for cart_id, (cart, changed_at) in shop.visible.items():
        user = shop.versions["users"].get(cart["userId"])
        for number, line in enumerate(cart["products"], start=1):
            product = shop.versions["products"].get(line["productId"])
            version = version_at(product, changed_at) if product else None
            price = price_of(shop, line["productId"], changed_at)
            rows.append(
                {
                    "cart_item_key": f"{cart_id}-{number}",
                    "cart_id": cart_id,
                    "line_number": number,
                    "user_id": cart["userId"],
                    "user_key": key_of(cart["userId"], version_at(user, changed_at))
                    if user
                    else "unknown",
                    "product_id": line["productId"],
                    "product_key": key_of(line["productId"], version) if version else "unknown",
                    "date_day": day_of(cart),
                    "quantity": line["quantity"],
                    "unit_price": price,
                    "line_total": None if price is None else price * line["quantity"],
                    "cart_changed_at": changed_at,
                }
            )
    return rows


def price_of(shop: Shop, product_id: int, moment: dt.datetime) -> Decimal | None:
    """Return the list price of a product at a moment; None for an unknown one."""
    versions = shop.versions["products"].get(product_id)
    price: Decimal | None = version_at(versions, moment).attributes["price"] if versions else None
    return price


def day_of(cart: Row) -> dt.date:
    """Return the cart's own day."""
    return dt.date.fromisoformat(cart["date"][:10]) if cart["date"] else UNKNOWN_DAY


def fact_carts(shop: Shop, lines: list[Row]) -> list[Row]:
    """Return the carts that exist, empty ones too."""
    by_cart = grouped(lines, "cart_id")
    rows = []
    for cart_id, (cart, changed_at) in shop.visible.items():
        share = by_cart.get(cart_id, [])
        figures = totals(share)
        del figures["carts"]
        rows.append(
            {"cart_id": cart_id, "user_id": cart["userId"], "date_day": day_of(cart)}
            | figures
            | {
                "lines_without_price": sum(line["unit_price"] is None for line in share),
                "cart_changed_at": changed_at,
            }
        )
    return rows


def cart_verification(shop: Shop) -> Row:
    """Return how the carts that the shop has compare with what the pipeline could see of them."""

    def told(cart: Row) -> Any:
        lines = sorted((line["productId"], line["quantity"]) for line in cart["products"])
        return cart["userId"], cart["date"], lines

    seen = {cart_id: told(cart) for cart_id, (cart, _) in shop.visible.items()}
    true = {cart_id: told(cart) for cart_id, cart in shop.carts.items()}
    extra = len(seen.keys() - true.keys())
    is_held = extra > 2 and extra * 10 > len(seen) * 3
    missing = len(true.keys() - seen.keys())
    agreeing = sum(seen[cart_id] == true[cart_id] for cart_id in seen.keys() & true.keys())
    different = len(seen.keys() & true.keys()) - agreeing
    return {
        "observed_at": shop.snapshot_at,
        "carts": len(seen.keys() | true.keys()),
        "agreeing": agreeing,
        "missing": missing,
        "extra": 0 if is_held else extra,
        "different": different,
        "unsettled": extra if is_held else 0,
        "drifting": 0,
        "is_verified": not (missing or different or extra),
    }


def fact_cart_events(shop: Shop) -> list[Row]:
    """Return the events with what their carts held before and after, at the event's prices."""

    def held(cart: Row | None, moment: dt.datetime) -> tuple[int, Decimal]:
        lines = cart["products"] if cart else []
        value = sum(
            (
                (price_of(shop, line["productId"], moment) or Decimal()) * line["quantity"]
                for line in lines
            ),
            Decimal(),
        )
        return sum(line["quantity"] for line in lines), value

    rows = []
    for event in shop.events:
        units_before, value_before = held(event.before, event.event_at)
        units_after, value_after = held(event.after, event.event_at)
        rows.append(
            {
                "event_id": event.event_id,
                "cart_id": event.cart_id,
                "user_id": event.after["userId"] if event.after else None,
                "event_type": event.event_type,
                "is_snapshot": event.snapshot_size is not None,
                "event_at": event.event_at,
                "date_day": event.event_at.date(),
                "generation": event.generation,
                "sequence": event.sequence,
                "units_before": units_before,
                "units_after": units_after,
                "value_before": value_before,
                "value_after": value_after,
                "published_date": event.published_date,
            }
        )
    return rows


def days_of(shop: Shop, carts: list[Row]) -> set[dt.date]:
    """Return every day that gold joins on."""
    happened = {event.event_at.date() for event in shop.events}
    published = {day for day, counts in shop.health.items() if counts["deliveries"]}
    return {cart["date_day"] for cart in carts} | happened | published


def dim_dates(days: Iterable[dt.date]) -> list[Row]:
    """Return the calendar from 2020 over the days that are used, to the end of this year."""
    used = set(days)
    known = used - {UNKNOWN_DAY}
    first = min(known | {dt.date(2020, 1, 1)})
    last = max(known | {dt.date(today().year, 12, 31)})
    all_days = [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]
    return [
        {
            "date_day": day,
            "year": day.year,
            "quarter": (day.month + 2) // 3,
            "month": day.month,
            "day_of_month": day.day,
            "iso_year": day.isocalendar().year,
            "iso_week": day.isocalendar().week,
            "iso_day_of_week": day.isoweekday(),
            "year_month": f"{day:%Y-%m}",
            "iso_year_week": "{0.year}-W{0.week:02}".format(day.isocalendar()),
            "month_name": calendar.month_name[day.month],
            "day_name": calendar.day_name[day.weekday()],
            "week_start": day - dt.timedelta(days=day.weekday()),
            "month_start": day.replace(day=1),
            "quarter_start": day.replace(day=1, month=(day.month + 2) // 3 * 3 - 2),
            "is_weekend": day.isoweekday() > 5,
            "is_unknown": day == UNKNOWN_DAY,
        }
        for day in [*all_days, *(used & {UNKNOWN_DAY})]
    ]


def totals(lines: list[Row]) -> Row:
    """Return the figures that every KPI table gives for its share of the lines."""
    return {
        "carts": len({line["cart_id"] for line in lines}),
        "cart_lines": len(lines),
        "units": sum(line["quantity"] for line in lines),
        "value": sum((line["line_total"] or Decimal() for line in lines), Decimal()),
    }


def totals_of(carts: list[Row]) -> Row:
    """Return the same figures from whole carts."""
    return {
        "carts": len(carts),
        "cart_lines": sum(cart["cart_lines"] for cart in carts),
        "units": sum(cart["units"] for cart in carts),
        "value": sum((cart["value"] for cart in carts), Decimal()),
    }


def cart_figures(carts: list[Row]) -> Row:
    """Return the average and the span of whole carts."""
    days = {cart["date_day"] for cart in carts} - {UNKNOWN_DAY}
    value = sum((cart["value"] for cart in carts), Decimal())
    return {
        "average_cart_value": rounded(value / len(carts), 2) if carts else None,
        "first_cart_date": min(days, default=None),
        "last_cart_date": max(days, default=None),
    }


def grouped(lines: list[Row], column: str) -> dict[Any, list[Row]]:
    """Return the lines by the value of a column."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for line in lines:
        groups[line[column]].append(line)
    return groups


def kpi_days(carts: list[Row]) -> list[Row]:
    """Return the figures by the carts' day."""
    return [
        {"date_day": day}
        | totals_of(share)
        | {"lines_without_price": sum(cart["lines_without_price"] for cart in share)}
        for day, share in grouped(carts, "date_day").items()
    ]


def kpi_products(shop: Shop, lines: list[Row]) -> list[Row]:
    """Return the figures by product, also of those in no cart."""
    shares = grouped(lines, "product_id")
    unknown = Version({"title": "unknown", "category": "unknown", "price": None}, False, EPOCH)
    rows = []
    for number in shop.versions["products"].keys() | shares.keys():
        version = shop.versions["products"].get(number, [unknown])[-1]
        rows.append(
            {
                "product_id": number,
                "title": version.attributes["title"],
                "category": version.attributes["category"],
                "list_price": version.attributes["price"],
                "is_listed": version.is_listed,
            }
            | totals(shares.get(number, []))
        )
    return rows


def kpi_categories(shop: Shop, lines: list[Row]) -> list[Row]:
    """Return the figures by the category as of the cart's last change."""
    categories = {
        key_of(number, version): version.attributes["category"]
        for number, versions in shop.versions["products"].items()
        for version in versions
    }
    named = [line | {"category": categories.get(line["product_key"], "unknown")} for line in lines]
    return [
        {"category": name} | totals(share) for name, share in grouped(named, "category").items()
    ]


def kpi_users(shop: Shop, carts: list[Row]) -> list[Row]:
    """Return the figures by user, also of those without a cart."""
    shares = grouped(carts, "user_id")
    rows = []
    for number in shop.versions["users"].keys() | shares.keys():
        version = shop.versions["users"].get(number, [Version({"city": "unknown"}, False, EPOCH)])[
            -1
        ]
        figures = totals_of(shares.get(number, []))
        del figures["cart_lines"]
        rows.append(
            {
                "user_id": number,
                "city": version.attributes["city"],
                "is_listed": version.is_listed,
            }
            | figures
            | cart_figures(shares.get(number, []))
        )
    return rows


def kpi_cart_lifecycle(shop: Shop) -> list[Row]:
    """Return what the polls saw by day."""
    names = (
        "snapshot_carts",
        "created_carts",
        "modifications",
        "deleted_carts",
        "superseded_carts",
    )
    return [
        {"day": day}
        | {name: counts[name] for name in names}
        | {
            "whole_lives": len(lengths := shop.life_lengths.get(day, [])),
            "average_life_hours": rounded(sum(lengths) / len(lengths) / 3600, 2)
            if lengths
            else None,
        }
        for day, counts in shop.lifecycle.items()
        if any(counts.values())
    ]


def incomplete_snapshot(shop: Shop) -> dict[dt.date, int]:
    """Return how many carts are missing of the newest snapshot, by the day of its first event."""
    of_generation = grouped(
        [vars(event) for event in shop.events if event.snapshot_size is not None], "generation"
    )
    newest = of_generation[max(of_generation)]
    missing = newest[0]["snapshot_size"] - len(newest)
    return {min(event["published_date"] for event in newest): missing} if missing else {}


def pipeline_health(shop: Shop) -> list[Row]:
    """Return the pipeline's figures by day."""
    names = (
        "runs",
        "failed_runs",
        "incomplete_runs",
        "records",
        "quarantined",
        "rejected_records",
        "deliveries",
        "events",
        "duplicates",
        "rejected_events",
    )
    incomplete = incomplete_snapshot(shop)
    verification = cart_verification(shop)
    rows = []
    for day, counts in shop.health.items():
        milliseconds = [lag // dt.timedelta(milliseconds=1) for lag in shop.lags.get(day, [])]
        average = Decimal(sum(milliseconds)) / len(milliseconds) if milliseconds else None
        rows.append(
            {"day": day}
            | {name: counts[name] for name in names}
            | {
                "incomplete_snapshots": int(day in incomplete),
                "missing_snapshot_carts": incomplete.get(day, 0),
                "doubted_runs": 0,
                "verified_through": verification["observed_at"]
                if verification["is_verified"] and verification["observed_at"].date() == day
                else None,
                "drifting_carts": 0,
                "average_lag_seconds": None if average is None else rounded(average / 1000, 3),
                "max_lag_seconds": Decimal(max(milliseconds)) / 1000 if milliseconds else None,
            }
        )
    return rows


def pipeline_runs(shop: Shop) -> list[Row]:
    """Return the newest run of each entity."""
    return [
        {
            "entity": entity,
            "run_id": run["run_id"],
            "status": run["status"],
            "records": run["records"],
            "quarantined": run["quarantined"],
            "object_bytes": run["bytes"],
            "started_at": run["started_at"],
            "finished_at": run["finished_at"],
            "loaded_at": shop.loaded_at.get(entity),
        }
        for entity, run in shop.newest_runs.items()
    ]
