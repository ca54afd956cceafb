"""Says in sentences what is wrong with the pipeline, and until when the figures are verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from reporting.gold import Gold, Row

# gold is a day old at most when the batch stage runs daily; two give a late run its time
STALE_AFTER_HOURS = 48
# a daily dbt build that failed leaves gold a day old; one that succeeded leaves it minutes old
NOT_REBUILT_AFTER_HOURS = 20
SLOW_EVENT_SECONDS = 300
# what cannot be read leaves a cart as it was until its next change
REMEMBERED_DAYS = 7
# carts are read with each daily batch
UNVERIFIED_AFTER_HOURS = 48


class Verification(NamedTuple):
    """Whether the figures are those of the shop: good, doubtful or wrong, and a sentence."""

    status: str
    sentence: str


def warnings_of(gold: Gold, now: datetime) -> list[str]:
    """Return a sentence for each thing that is wrong; none where the pipeline is well.

    `now` is an aware UTC time.
    """
    return [
        *warnings_of_gold(gold, now),
        *warnings_of_runs(gold.rows["pipeline_runs"], now),
        *warnings_of_events(gold.rows["pipeline_health"]),
        *warnings_of_drift(gold.rows["cart_verification"]),
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
    """Yield what is wrong with the events: of the last days, but the newest alone for their lag."""
    by_day = sorted(days, key=lambda row: row["day"])
    for day in by_day[-REMEMBERED_DAYS:]:
        if day["rejected_events"]:
            yield f"{day['rejected_events']} events of {day['day']} could not be read."
    missing = sum(day["missing_snapshot_carts"] for day in days)
    if missing:
        yield f"{missing} carts of a snapshot are missing: what it did not hold is still in gold."
    for day in by_day[-1:]:
        if (day["max_lag_seconds"] or 0) > SLOW_EVENT_SECONDS:
            yield f"An event of {day['day']} took {day['max_lag_seconds']:.0f} s to Pub/Sub."


def warnings_of_drift(snapshots: Sequence[Row]) -> Iterator[str]:
    """Yield that events are missing, and what makes up for them."""
    drifting = max((snapshot["drifting"] for snapshot in snapshots), default=0)
    if drifting:
        yield (
            f"{drifting} carts differ from the shop in two snapshots: events are missing. "
            "near_realtime_ingestion_2.py --once --new-snapshot publishes every cart once more, "
            "which makes up for them."
        )


def verification_of(gold: Gold, now: datetime) -> Verification:
    """Return until when the figures agree with the shop's own carts."""
    snapshots = sorted(gold.rows["cart_verification"], key=lambda row: row["observed_at"])
    times = [day["verified_through"] for day in gold.rows["pipeline_health"]]
    until = max(filter(None, times), default=None)
    if not snapshots and until is None:
        return Verification(
            "doubtful",
            "Not verified against the shop: no snapshot of its carts was read "
            "(batch_ingestion.py --entities carts).",
        )
    shown = f"until {time_in_words(until)}" if until else "at no time"
    sentence = f"Verified against the shop {shown}"
    newest = snapshots[-1] if snapshots else None
    if newest:
        differing = newest["missing"] + newest["extra"] + newest["different"]
        sentence += f"; {differing} of {newest['carts']} carts differ"
        if newest["unsettled"]:
            sentence += (
                f", {newest['unsettled']} were changing: the next reading of the carts tells"
            )
    if any(snapshot["drifting"] for snapshot in snapshots):
        return Verification("wrong", f"{sentence}.")
    is_old = until is None or now - until > timedelta(hours=UNVERIFIED_AFTER_HOURS)
    return Verification("doubtful" if is_old else "good", f"{sentence}.")


def time_in_words(time: datetime) -> str:
    """Return a time as a sentence says it: 25 November 2026 06:00 UTC."""
    utc = time.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y %H:%M} UTC"
