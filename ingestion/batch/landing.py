"""An answer becomes one file of lines in the raw folder, whole or not at all.

{raw-dir}/{entity}/date={yyyy-mm-dd}/run_id={uuid}/data.json              the records
{raw-dir}/quarantine/{entity}/date={yyyy-mm-dd}/run_id={uuid}/data.json   those refused
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from ingestion.batch.lines import envelope, quarantine_line, to_lines
from ingestion.batch.receipts import (
    RECEIPT_VERSION,
    Destination,
    Landing,
    LandingError,
    put_in_place,
    remove_traces,
    temporary_files,
    write_receipt,
)
from ingestion.checksum import spelled_crc32c
from ingestion.durable_files import failpoint
from ingestion.records import Window


@dataclass(frozen=True)
class Reading:
    """What is said of each record of one answer: whose it is, when it came and from where."""

    entity: str
    run_id: str
    ingested_at: str
    source_url: str
    redacted: frozenset[str]
    # a replay of a quarantine: its run, and how many records lie there
    replayed_run_id: str | None = None
    replayed_from: int = 0

    def opening(self, **others: object) -> bytes:
        """Return the line of one of its records up to the record itself."""
        return envelope(self.run_id, self.ingested_at, self.source_url, **others)


@dataclass
class _Written:
    """What has been written so far."""

    records: int = 0
    quarantined: int = 0
    bytes: int = 0
    crc: int = 0


def timestamp(instant: datetime) -> str:
    """Return an aware UTC instant as the raw lines spell it."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def land(
    windows: Iterable[Window], raw_dir: Path, reading: Reading, destination: Destination | None
) -> Landing:
    """Write the windows of one answer below `raw_dir`, all or nothing, and return its receipt.

    With a `destination` they wait there for their way to Google Cloud.
    Whatever `windows` raises leaves nothing behind, and so does a disk that is full.
    """
    run_id, entity = reading.run_id, reading.entity
    try:
        written = _write(windows, *temporary_files(raw_dir, run_id, entity), reading)
        failpoint("data-written")
        landing = Landing(
            entity=entity,
            run_id=run_id,
            ingested_at=reading.ingested_at,
            source_url=reading.source_url,
            records=written.records,
            quarantined=written.quarantined + reading.replayed_from,
            bytes=written.bytes,
            crc32c=spelled_crc32c(written.crc),
            is_waiting=destination is not None,
            version=RECEIPT_VERSION,
            replayed_run_id=reading.replayed_run_id,
            destination=destination,
        )
        write_receipt(raw_dir, landing)
    except BaseException as error:
        with suppress(OSError):
            remove_traces(raw_dir, run_id, entity)
        if isinstance(error, OSError):
            raise LandingError(
                f"{raw_dir} cannot be written ({error.strerror or error}): nothing of this answer "
                "is kept. Correct this, or give another --raw-dir, and run again"
            ) from None
        raise
    put_in_place(raw_dir, landing)
    return landing


def _write(
    windows: Iterable[Window], data_file: Path, quarantine_file: Path, reading: Reading
) -> _Written:
    written = _Written()
    opening = reading.opening()
    data_file.parent.mkdir(parents=True, exist_ok=True)
    with _durably_written(data_file) as data, _durably_written(quarantine_file) as quarantine:
        for window in windows:
            lines = to_lines(window.raws, opening, reading.redacted)
            data.write(lines)
            written.crc = google_crc32c.extend(written.crc, lines)
            written.bytes += len(lines)
            written.records += len(window.raws)
            written.quarantined += len(window.bad)
            for bad in window.bad:
                refused = reading.opening(reason=bad.reason, position=bad.position)
                quarantine.write(quarantine_line(bad, refused, reading.redacted))
    return written


@contextmanager
def _durably_written(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
