"""What has become of each entity: the summary that a run ends with, and its exit code."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ingestion.batch.receipts import Landing

STATUSES = ("done", "waiting", "failed")
# attributes of Outcome, numbers to the right
COLUMNS = {
    "entity": str.ljust,
    "status": str.ljust,
    "records": str.rjust,
    "quarantined": str.rjust,
    "bytes": str.rjust,
    "seconds": str.rjust,
    "where": str.ljust,
    "run_id": str.ljust,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What has become of one entity of one run; a line of the summary."""

    entity: str
    run_id: str
    status: str  # one of STATUSES
    where: str = ""
    records: int = 0
    quarantined: int = 0
    bytes: int = 0
    seconds: float = 0.0
    message: str = ""
    # it waits, but not for what this command says
    is_misdirected: bool = False


def outcome_of(landing: Landing, status: str, where: str, message: str = "") -> Outcome:
    """Return the summary's line for a landing."""
    return Outcome(
        entity=landing.entity,
        run_id=landing.run_id,
        status=status,
        where=where,
        records=landing.records,
        quarantined=landing.still_quarantined,
        bytes=landing.bytes,
        message=message,
    )


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 1 if an entity failed, else 2 if one waits for another command, 3 if one waits."""
    statuses = {outcome.status for outcome in outcomes}
    if "failed" in statuses:
        return 1
    if any(outcome.is_misdirected for outcome in outcomes):
        return 2
    return 3 if "waiting" in statuses else 0


def print_summary(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    """Print the summary on stdout, as a table or as JSON, and what went wrong in the log."""
    for outcome in outcomes:
        if outcome.message:
            level = logging.ERROR if outcome.status == "failed" else logging.WARNING
            log.log(level, "%s entity=%s: %s", outcome.status, outcome.entity, outcome.message)
    if as_json:
        print(json.dumps({"exit_code": exit_code(outcomes), "entities": [*map(asdict, outcomes)]}))
    elif outcomes:
        print("\n".join(table(outcomes)))
    else:
        print("nothing waits")


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the lines of a table with a heading and a row for each outcome."""
    rows = [
        tuple(COLUMNS),
        *(tuple(_cell(getattr(each, column)) for column in COLUMNS) for each in outcomes),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(COLUMNS.values(), row, widths, strict=True)
        lines.append("  ".join(justify(cell, width) for justify, cell, width in cells).rstrip())
    return lines


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
