"""Says in sentences what is wrong with the pipeline, and until when the figures are verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from reporting.gold import Gold, Row

# gold is a day old at most when the batch stage runs daily; two give a late run its time
STALE_AFTER_HOURS = 48
# a daily dbt build that failed leaves gold a day old; one that succeeded leaves it minutes old
NOT_REBUILT_AFTER_HOURS = 20
SLOW_EVENT_SECONDS = 300


def warnings_of(gold: Gold, now: datetime) -> list[str]:
    """Return a sentence for each thing that is wrong; none where the pipeline is well.

    `now` is an aware UTC time.
    """
    return [
        *warnings_of_gold(gold, now),
        *warnings_of_runs(gold.rows["pipeline_runs"], now),
        *warnings_of_events(gold.rows["pipeline_health"]),
    ]


def warnings_of_gold(gold: Gold, now: datetime) -> Iterator[str]:
    """Yield what is wrong with gold itself."""
    age = now - gold.built_at
    if age > timedelta(hours=NOT_REBUILT_AFTER_HOURS):
        yield (
            f"Gold was last built whole {gold.built_at:%Y-%m-%d %H:%M} UTC, "
            f"{age.total_seconds() / 3600:.0f} hours ago: no dbt build has succeeded since, so "
            "everything on this page is as of then."
        )
    totals = gold.rows["kpi_totals"]
    if not totals or not totals[0]["carts"]:
        yield "Gold holds no cart yet: run the ingestion scripts, then dbt build, then this again."
    if totals and not gold.rows["pipeline_runs"]:
        yield "No batch run is recorded: products and users may be missing."


def warnings_of_runs(runs: Sequence[Row], now: datetime) -> Iterator[str]:
    """Yield what is wrong with the newest batch run of each entity."""
    for run in runs:
        entity = run["entity"]
        if run["status"] != "loaded":
            yield f"The newest run of {entity} ended {run['status']}."
        if run["quarantined"]:
            yield f"The newest run of {entity} quarantined {run['quarantined']} records."
        if run["loaded_at"] is None or now - run["loaded_at"] > timedelta(hours=STALE_AFTER_HOURS):
            yield f"No run of {entity} was loaded in the last {STALE_AFTER_HOURS} hours."


def warnings_of_events(days: Sequence[Row]) -> Iterator[str]:
    """Yield what was wrong with the events of the newest day."""
    for day in sorted(days, key=lambda row: row["day"])[-1:]:
        if day["rejected_events"]:
            yield f"{day['rejected_events']} events of {day['day']} could not be read."
        if (day["max_lag_seconds"] or 0) > SLOW_EVENT_SECONDS:
            yield f"An event of {day['day']} took {day['max_lag_seconds']:.0f} s to Pub/Sub."


def verified_through(days: Sequence[Row]) -> datetime | None:
    """Return until when the figures agree with the shop's own; None where gold does not say."""
    return max((day["verified_through"] for day in days if day["verified_through"]), default=None)
