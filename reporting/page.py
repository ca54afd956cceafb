"""The report's HTML page: self-contained, every value from the data escaped where it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from reporting.charts import charts_of, vega_bundle
from reporting.gold import Gold
from reporting.health import verification_of, warnings_of
from reporting.parts import DETAILS, HEALTH, MONEY_NOTE, TOTALS, Column

TEMPLATE = Path(__file__).with_name("page.html.j2")


def format_value(value: Any, column: Column) -> str:
    """Return a value as the page shows it; a missing one is a dash."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return format_time(value)
    if column.kind == "money":
        return f"{value:,.2f}"
    if column.kind == "number":
        return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    return str(value)


def format_time(time: datetime) -> str:
    """Return a time in UTC, to the minute."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def render(gold: Gold, now: datetime, told: Sequence[str] = (), **page: Any) -> str:
    """Return the page as HTML.

    `told` are warnings that gold cannot know; `page` has project_id, dataset_id and docs.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"value": format_value, "time": format_time}
    charts = {part.name: charts_of(part, gold.rows[part.name]) for part in (*HEALTH, *DETAILS)}
    by_element = {
        f"{name}-chart-{number}": chart
        for name, of_part in charts.items()
        for number, chart in enumerate(of_part.values(), start=1)
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        totals=TOTALS,
        health=HEALTH,
        details=DETAILS,
        rows=gold.rows,
        built_at=gold.built_at,
        verification=verification_of(gold, now),
        warnings=[*told, *warnings_of(gold, now)],
        money_note=MONEY_NOTE,
        now=now,
        charts=charts,
        # "<" may not stand in an inline script: "</script>" in a title would end it
        charts_json=json.dumps(by_element).replace("<", "\\u003c"),
        vega_bundle=vega_bundle(),
        **page,
    )
