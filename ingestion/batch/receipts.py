"""The receipt of a landed answer: what was landed, and how far it has got.

    {raw-dir}/.runs/{uuid}/{entity}.json

It is the moment from which an answer counts as landed: it is written when the lines are on the
disk, and from then on a run of the same id continues from them and never asks the API again. It
stays for as long as the file beside it does, and travels with the object in Cloud Storage.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from ingestion.durable_files import failpoint, replace_file

RUNS_FOLDER = ".runs"
RECEIPT_VERSION = 1

# they become parts of paths: what is read from a bucket names no other place than its own
EntityName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9_]*\Z")]
RunId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")]
Timestamp = Annotated[str, msgspec.Meta(pattern=r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")]


class LandingError(Exception):
    """What lies in the raw folder does not fit what was asked; the message says what to do."""


class Destination(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The place in Google Cloud that records go to."""

    project_id: str
    bucket_name: str
    dataset_id: str

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"gs://{self.bucket_name} and {self.project_id}.{self.dataset_id}"


class Landing(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One landed answer of an entity; encoded as JSON it is the receipt.

    `is_waiting` says that the file is still to go to Cloud Storage and BigQuery, to `destination`
    and to no other; receipts of older versions name none, and those of objects need none. With
    `replayed_run_id` the records are not an answer but those of that run's quarantine that are
    valid by now, and `quarantined` counts the whole quarantine.
    """

    entity: EntityName
    run_id: RunId
    ingested_at: Timestamp
    source_url: str
    records: int
    quarantined: int
    bytes: int
    crc32c: str
    is_waiting: bool
    version: int
    replayed_run_id: RunId | None = None
    destination: Destination | None = None

    @property
    def data_path(self) -> str:
        """The path of the records, below `raw/` in the bucket and below `--raw-dir`."""
        return f"{self.entity}/date={self.ingested_at[:10]}/run_id={self.run_id}/data.json"

    @property
    def quarantine_path(self) -> str | None:
        """The path of the refused records, below the same folder, where there are any."""
        if self.replayed_run_id or not self.quarantined:
            return None
        return f"quarantine/{self.data_path}"

    @property
    def still_quarantined(self) -> int:
        """How many records are in quarantine and in no table."""
        return self.quarantined - (self.records if self.replayed_run_id else 0)


def decode_receipt(text: bytes | str, where: str) -> Landing:
    """Return the landing that a receipt tells of; LandingError names `where` it was found."""
    try:
        landing = msgspec.json.decode(text, type=Landing)
    except msgspec.DecodeError as error:
        raise LandingError(f"{where} is not a receipt: {error}") from None
    if landing.version != RECEIPT_VERSION:
        raise LandingError(f"{where} is a receipt of version {landing.version}, a newer program's")
    return landing


def write_receipt(raw_dir: Path, landing: Landing) -> None:
    """Write or replace the receipt of `landing`."""
    path = receipt_file(raw_dir, landing.run_id, landing.entity)
    replace_file(path, [msgspec.json.encode(landing)], "receipt")


def read_receipt(raw_dir: Path, run_id: str, entity: str) -> Landing | None:
    """Return the receipt of an entity's run with its files in place, or None without one."""
    path = receipt_file(raw_dir, run_id, entity)
    if path.exists():
        landing = _read(path)
        put_in_place(raw_dir, landing)
        return landing
    for data in raw_dir.glob(f"{entity}/date=*/run_id={run_id}/data.json"):
        raise LandingError(f"{data} stands without its receipt {path}: give another --run-id")
    return None


def put_in_place(raw_dir: Path, landing: Landing) -> None:
    """Give the landed files their names; once more after a kill, it finishes what is left."""
    data_tmp, quarantine_tmp = temporary_files(raw_dir, landing.run_id, landing.entity)
    # the records come last: where they stand, all of the answer stands
    for temporary, path in (
        (quarantine_tmp, landing.quarantine_path),
        (data_tmp, landing.data_path),
    ):
        if path is None:
            temporary.unlink(missing_ok=True)
        elif temporary.exists():
            (raw_dir / path).parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(raw_dir / path)
    failpoint("data-replaced")


def waiting_landings(raw_dir: Path) -> tuple[list[Landing], list[tuple[Path, str]]]:
    """Return what is still to go to Google Cloud, in the order in which it was read.

    With it come the receipts that cannot be read, each with the reason.
    """
    waiting: list[Landing] = []
    unreadable: list[tuple[Path, str]] = []
    for path in sorted((raw_dir / RUNS_FOLDER).glob("*/*.json")):
        try:
            landing = _read(path)
        except FileNotFoundError:  # its own process has just finished it
            continue
        except (LandingError, OSError) as error:
            unreadable.append((path, str(error)))
            continue
        if landing.is_waiting:
            waiting.append(landing)
    waiting.sort(key=lambda landing: (landing.ingested_at, landing.entity))
    return waiting, unreadable


def remove_landing(raw_dir: Path, landing: Landing) -> None:
    """Remove the local files of a landing that has arrived where it was to go, receipt last.

    The folder of the day stays: another run may be about to land in it.
    """
    for path in (landing.quarantine_path, landing.data_path):
        if path:
            (raw_dir / path).unlink(missing_ok=True)
            with suppress(OSError):  # somebody's own file is in it
                (raw_dir / path).parent.rmdir()
    failpoint("data-removed")
    remove_traces(raw_dir, landing.run_id, landing.entity)


def remove_traces(raw_dir: Path, run_id: str, entity: str) -> None:
    """Remove the receipt and the temporary files of an entity's run."""
    receipt = receipt_file(raw_dir, run_id, entity)
    torn = receipt.with_name(f"{receipt.name}.tmp")
    for path in (*temporary_files(raw_dir, run_id, entity), torn, receipt):
        path.unlink(missing_ok=True)


def temporary_files(raw_dir: Path, run_id: str, entity: str) -> tuple[Path, Path]:
    """Return where the records and the refused records are written at first."""
    folder = run_folder(raw_dir, run_id)
    return folder / f"{entity}.data.tmp", folder / f"{entity}.quarantine.tmp"


def receipt_file(raw_dir: Path, run_id: str, entity: str) -> Path:
    """Return where the receipt of an entity's run lies."""
    return run_folder(raw_dir, run_id) / f"{entity}.json"


def run_folder(raw_dir: Path, run_id: str) -> Path:
    """Return the folder of a run's receipts and temporary files."""
    return raw_dir / RUNS_FOLDER / run_id


def _read(path: Path) -> Landing:
    landing = decode_receipt(path.read_bytes(), str(path))
    if path.parts[-2:] != (landing.run_id, f"{landing.entity}.json"):
        raise LandingError(f"{path} is the receipt of another run or entity")
    return landing
