"""Finish what waits in the raw folder, without asking the API."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ingestion.batch.bronze import Bronze, load_landing, misdirected
from ingestion.batch.progress import Progress, showing_progress
from ingestion.batch.receipts import Landing, LandingError, read_receipt, waiting_landings
from ingestion.batch.run import finished
from ingestion.batch.run_lock import remove_traces_of_killed_runs, sole_run
from ingestion.batch.summary import Outcome, outcome_of
from ingestion.durable_files import AnotherWriterError


def resume(
    names: Sequence[str], run_id: str | None, raw_dir: Path, bronze: Bronze
) -> list[Outcome]:
    """Load what waits, oldest first, until Google Cloud is out of reach again.

    What cannot be read fails by itself and leaves the others alone; what waits for another
    destination goes on waiting.
    """
    remove_traces_of_killed_runs(raw_dir)
    waiting, unreadable = waiting_landings(raw_dir)
    outcomes = [
        _unreadable(path, reason)
        for path, reason in unreadable
        if path.stem in names and run_id in (None, path.parent.name)
    ]
    is_away = False
    with showing_progress(names) as progress:
        for landing in waiting:
            if landing.entity not in names or run_id not in (None, landing.run_id):
                continue
            file = str(raw_dir / landing.data_path)
            if outcome := misdirected(landing, raw_dir, bronze):
                outcomes.append(outcome)
                continue
            if is_away:
                message = f"Not tried. The records wait in {file}; "
                message += f"finish with: {bronze.commands.resume}"
                outcomes.append(outcome_of(landing, "waiting", file, message))
                continue
            try:
                outcome = resume_one(landing, raw_dir, bronze, progress)
            except AnotherWriterError as error:
                outcomes.append(outcome_of(landing, "waiting", file, f"{error} on this run."))
                continue
            except (LandingError, OSError) as error:
                outcomes.append(outcome_of(landing, "failed", file, str(error)))
                continue
            outcomes.append(outcome)
            is_away = outcome.status == "waiting" and not outcome.is_misdirected
    return outcomes


def resume_one(waiting: Landing, raw_dir: Path, bronze: Bronze, progress: Progress) -> Outcome:
    """Load one landing; AnotherWriterError says that another process is at it."""
    started = time.monotonic()
    with sole_run(raw_dir, waiting.run_id):
        landing = read_receipt(raw_dir, waiting.run_id, waiting.entity)
        if landing is None:  # another process has just finished it
            outcome = outcome_of(waiting, "done", bronze.table_of(waiting.entity))
        else:
            outcome = load_landing(landing, raw_dir, bronze, progress)
    return finished(outcome, started, progress)


def _unreadable(receipt: Path, reason: str) -> Outcome:
    message = (
        f"{reason}. The others are not held up. Restore that file from a backup, or move its "
        f"folder {receipt.parent} away and read the API again with a new run"
    )
    return Outcome(receipt.stem, receipt.parent.name, "failed", str(receipt), message=message)
