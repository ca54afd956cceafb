"""The raw zone on the local disk: an answer becomes one file of lines, whole or not at all.

    {raw-dir}/{entity}/date={yyyy-mm-dd}/run_id={uuid}/data.json              the records
    {raw-dir}/quarantine/{entity}/date={yyyy-mm-dd}/run_id={uuid}/data.json   those refused
    {raw-dir}/.runs/{uuid}/{entity}.json                                      the receipt

The receipt is the moment from which an answer counts as landed: it is written when the lines are
on the disk, and from then on a run of the same id continues from them and never asks the API
again. It stays for as long as the file beside it does.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import msgspec

from ingestion.durable_files import AnotherWriterError, failpoint, replace_file, single_writer
from ingestion.records import BadRecord, Window
from ingestion.redaction import redact

RUNS_FOLDER = ".runs"
RECEIPT_VERSION = 1
# between tokens JSON allows newlines, in a line of NDJSON they may not stand; inside strings JSON
# itself forbids them
_NEWLINES_TO_SPACES = bytes.maketrans(b"\r\n", b"  ")


class Landing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One landed answer of an entity; encoded as JSON it is the receipt.

    `is_waiting` says that the file is still to go to Cloud Storage and BigQuery.
    """

    entity: str
    run_id: str
    ingested_at: str
    source_url: str
    records: int
    quarantined: int
    bytes: int
    crc32c: str
    is_waiting: bool
    version: int = RECEIPT_VERSION

    @property
    def data_path(self) -> str:
        """The path of the records, below `raw/` in the bucket and below `--raw-dir`."""
        return f"{self.entity}/date={self.ingested_at[:10]}/run_id={self.run_id}/data.json"

    @property
    def quarantine_path(self) -> str:
        """The path of the refused records, below the same folder."""
        return f"quarantine/{self.data_path}"


class LandingError(Exception):
    """What lies in the raw folder does not fit what was asked; the message says what to do."""


def timestamp(instant: datetime) -> str:
    """Return an aware UTC instant as the raw lines spell it."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def envelope(run_id: str, ingested_at: str, source_url: str, **others: object) -> bytes:
    """Return the line of a record up to the record itself; `}` and a newline follow it."""
    members = {"_run_id": run_id, "_ingested_at": ingested_at, "_source_url": source_url, **others}
    return json.dumps(members, ensure_ascii=False).encode()[:-1] + b', "record": '


def to_lines(raws: list[msgspec.Raw], opening: bytes, redacted: frozenset[str]) -> bytes:
    """Return records as lines of NDJSON, each behind `opening`, without the redacted members."""
    if not raws:
        return b""
    lines = b"%b%b}\n" % (opening, (b"}\n" + opening).join(raws))
    if lines.count(b"\n") != len(raws) or b"\r" in lines:
        records = [bytes(raw).translate(_NEWLINES_TO_SPACES) for raw in raws]
        lines = b"%b%b}\n" % (opening, (b"}\n" + opening).join(records))
    return redact(lines, redacted)


def quarantine_line(bad: BadRecord, opening: bytes, redacted: frozenset[str]) -> bytes:
    """Return a refused record as one line, like to_lines."""
    record = redact(bad.raw, redacted).translate(_NEWLINES_TO_SPACES)
    # NDJSON is UTF-8, even where the record was refused because it was not
    return b"%b%b}\n" % (opening, record.decode(errors="replace").encode())


def land(
    windows: Iterable[Window],
    raw_dir: Path,
    *,
    entity: str,
    run_id: str,
    ingested_at: str,
    source_url: str,
    redacted: frozenset[str],
    is_waiting: bool,
) -> Landing:
    """Write the windows of one answer below `raw_dir`, all or nothing, and return its receipt.

    Whatever `windows` raises leaves nothing behind.
    """
    data_tmp, quarantine_tmp = _temporary_files(raw_dir, run_id, entity)
    data_tmp.parent.mkdir(parents=True, exist_ok=True)
    opening = envelope(run_id, ingested_at, source_url)
    records = quarantined = size = crc = 0
    try:
        with _durably_written(data_tmp) as data, _durably_written(quarantine_tmp) as quarantine:
            for window in windows:
                lines = to_lines(window.raws, opening, redacted)
                data.write(lines)
                crc = google_crc32c.extend(crc, lines)
                size += len(lines)
                records += len(window.raws)
                quarantined += len(window.bad)
                for bad in window.bad:
                    told = {"reason": bad.reason, "position": bad.position}
                    refused = envelope(run_id, ingested_at, source_url, **told)
                    quarantine.write(quarantine_line(bad, refused, redacted))
    except BaseException:
        remove_traces(raw_dir, run_id, entity)
        raise
    failpoint("data-written")
    landing = Landing(
        entity=entity,
        run_id=run_id,
        ingested_at=ingested_at,
        source_url=source_url,
        records=records,
        quarantined=quarantined,
        bytes=size,
        crc32c=_as_cloud_storage_spells(crc),
        is_waiting=is_waiting,
    )
    write_receipt(raw_dir, landing)
    put_in_place(raw_dir, landing)
    return landing


def crc32c_of(file: Path) -> str:
    """Return the checksum of a file as Cloud Storage gives it."""
    crc = 0
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            crc = google_crc32c.extend(crc, block)
    return _as_cloud_storage_spells(crc)


def put_in_place(raw_dir: Path, landing: Landing) -> None:
    """Give the landed files their names; once more after a kill, it finishes what is left."""
    data_tmp, quarantine_tmp = _temporary_files(raw_dir, landing.run_id, landing.entity)
    # the records come last: where they stand, all of the answer stands
    for temporary, path in (
        (quarantine_tmp, landing.quarantine_path if landing.quarantined else None),
        (data_tmp, landing.data_path),
    ):
        if path is None:
            temporary.unlink(missing_ok=True)
        elif temporary.exists():
            (raw_dir / path).parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(raw_dir / path)
    failpoint("data-replaced")


def write_receipt(raw_dir: Path, landing: Landing) -> None:
    """Write or replace the receipt of `landing`."""
    path = _run_folder(raw_dir, landing.run_id) / f"{landing.entity}.json"
    replace_file(path, [msgspec.json.encode(landing)], "receipt")


def read_receipt(raw_dir: Path, run_id: str, entity: str) -> Landing | None:
    """Return the receipt of an entity's run with its files in place, or None without one."""
    path = _run_folder(raw_dir, run_id) / f"{entity}.json"
    if path.exists():
        landing = _decode_receipt(path)
        put_in_place(raw_dir, landing)
        return landing
    for data in raw_dir.glob(f"{entity}/date=*/run_id={run_id}/data.json"):
        raise LandingError(f"{data} stands without its receipt {path}: give another --run-id")
    return None


def waiting_landings(raw_dir: Path) -> list[Landing]:
    """Return what is still to go to Google Cloud, in the order in which it was read."""
    receipts: list[Landing] = []
    for path in (raw_dir / RUNS_FOLDER).glob("*/*.json"):
        with suppress(FileNotFoundError):  # its own process has just finished it
            receipts.append(_decode_receipt(path))
    waiting = (landing for landing in receipts if landing.is_waiting)
    return sorted(waiting, key=lambda landing: (landing.ingested_at, landing.entity))


def remove_landing(raw_dir: Path, landing: Landing) -> None:
    """Remove the local files of a landing that has arrived where it was to go, receipt last."""
    for path in (landing.quarantine_path, landing.data_path):
        (raw_dir / path).unlink(missing_ok=True)
        _remove_if_empty(*(raw_dir / path).parents[:2])
    failpoint("data-removed")
    remove_traces(raw_dir, landing.run_id, landing.entity)


def remove_traces(raw_dir: Path, run_id: str, entity: str) -> None:
    """Remove the receipt and the temporary files of an entity's run."""
    receipt = _run_folder(raw_dir, run_id) / f"{entity}.json"
    for path in (*_temporary_files(raw_dir, run_id, entity), receipt):
        path.unlink(missing_ok=True)


def remove_orphans(raw_dir: Path) -> None:
    """Remove the temporary files of runs that were killed before their receipt."""
    for folder in (raw_dir / RUNS_FOLDER).glob("*/"):
        with suppress(AnotherWriterError), sole_run(raw_dir, folder.name):
            for file in folder.glob("*.tmp"):
                entity = file.name.partition(".")[0]
                if not (folder / f"{entity}.json").exists():
                    file.unlink()


@contextmanager
def sole_run(raw_dir: Path, run_id: str) -> Iterator[None]:
    """Keep a second process from working on the same run id; AnotherWriterError says who does."""
    folder = _run_folder(raw_dir, run_id)
    with single_writer(folder):
        try:
            yield
        finally:
            # Windows keeps a locked file; the next run of this id finds it unlocked
            with suppress(OSError):
                folder.with_name(f"{run_id}.lock").unlink()
    _remove_if_empty(folder, folder.parent)


def _as_cloud_storage_spells(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


@contextmanager
def _durably_written(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _decode_receipt(path: Path) -> Landing:
    try:
        landing = msgspec.json.decode(path.read_bytes(), type=Landing)
    except msgspec.DecodeError as error:
        raise LandingError(f"{path} is not a receipt: {error}") from None
    if landing.version != RECEIPT_VERSION:
        raise LandingError(f"{path} is a receipt of version {landing.version}, a newer program's")
    return landing


def _run_folder(raw_dir: Path, run_id: str) -> Path:
    return raw_dir / RUNS_FOLDER / run_id


def _temporary_files(raw_dir: Path, run_id: str, entity: str) -> tuple[Path, Path]:
    folder = _run_folder(raw_dir, run_id)
    return folder / f"{entity}.data.tmp", folder / f"{entity}.quarantine.tmp"


def _remove_if_empty(*folders: Path) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
