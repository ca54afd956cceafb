"""The report's charts as Vega-Lite specifications, which hold the rows that they draw."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from reporting.gold import Row
from reporting.parts import Part

if TYPE_CHECKING:
    import altair as alt

# one or two days are read faster in their table
FEWEST_DAYS = 3
# more bars than this are a list, which the table is
MOST_BARS = 20
# the time axis is four weeks long at least, so that a bar is a bar and no block
SHORTEST_AXIS = timedelta(days=28)
# pixels between two labels of an axis; where they would be fewer, every other label is left out
LABEL_GAP = 8

Specification = dict[str, Any]


def charts_of(part: Part, rows: Sequence[Row]) -> dict[str, Specification]:
    """Return a part's charts by their column's title; none where the table says it better."""
    titles = {column.name: column.title for column in part.columns}
    sold = [row for row in rows if row["value"]][:MOST_BARS] if part.bars_by else []
    if sold:
        return {titles["value"]: bar_chart(part.bars_by, titles["value"], sold)}
    if len(rows) >= FEWEST_DAYS:
        day = part.columns[0].name
        height = 220 if len(part.days_of) == 1 else 90
        return {titles[name]: day_chart(day, name, rows, height) for name in part.days_of}
    return {}


def bar_chart(category: str, title: str, rows: Sequence[Row]) -> Specification:
    """Draw a bar of `value` for each row, as high as its label."""
    import altair as alt

    chart = (
        chart_of(rows, category, "value")
        .mark_bar()
        .encode(
            alt.X(
                "value:Q",
                title=f"{title}, at list price",
                axis=alt.Axis(labelSeparation=LABEL_GAP, titleAnchor="end"),
            ),
            alt.Y(category, type="nominal", title=None, sort="-x"),
            tooltip=[alt.Tooltip(category, type="nominal"), alt.Tooltip("value:Q")],
        )
        .properties(height={"step": 22})
    )
    specification: Specification = chart.to_dict()
    return specification


def day_chart(day: str, name: str, rows: Sequence[Row], height: int) -> Specification:
    """Draw a bar for each day: nothing is known between two. UTC, or days shift with the reader."""
    import altair as alt

    most = max(row[name] or 0 for row in rows)
    ticks = max(1, min(height // 40, int(most)))
    last = max(row[day] for row in rows)
    first = min(*(row[day] for row in rows), last - SHORTEST_AXIS)
    ends = [
        alt.DateTime(year=end.year, month=end.month, date=end.day, utc=True)
        for end in (first, last + timedelta(days=1))
    ]
    chart = (
        chart_of(rows, day, name)
        .mark_bar(width=alt.RelativeBandSize(0.7))
        .encode(
            alt.X(
                day,
                type="temporal",
                timeUnit="utcyearmonthdate",
                title=None,
                scale=alt.Scale(domain=ends),
                axis=alt.Axis(
                    format="%Y-%m-%d", labelOverlap=True, labelSeparation=LABEL_GAP, grid=False
                ),
            ),
            # counts and money alike: no tick between two whole numbers
            alt.Y(
                f"{name}:Q",
                title="at list price" if name == "value" else None,
                axis=alt.Axis(tickCount=ticks, tickMinStep=1, format=",d"),
            ),
            tooltip=[
                alt.Tooltip(day, type="temporal", timeUnit="utcyearmonthdate"),
                alt.Tooltip(f"{name}:Q"),
            ],
        )
        .properties(height=height)
    )
    specification: Specification = chart.to_dict()
    return specification


def chart_of(rows: Sequence[Row], *names: str) -> alt.Chart:
    """Return a chart of these columns that is as wide as its place on the page."""
    import altair as alt

    values = [{name: plain(row[name]) for name in names} for row in rows]
    return alt.Chart(alt.InlineData(values=values)).properties(
        width="container",
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        # half of a last label stands beyond the axis
        padding={"left": 5, "top": 5, "right": 20, "bottom": 5},
    )


def plain(value: Any) -> Any:
    """Return a BigQuery value as JSON can hold it."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, (date, datetime)) else value


@cache
def vega_bundle() -> str:
    """Return Vega-Embed and all it needs as one piece of JavaScript."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle
