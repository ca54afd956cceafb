"""Bring records out of quarantine that are valid by now, as additions to the run they came with.

Each quarantine file of a run that has landed becomes at most one more landing: the records that
pass today's checks, with the time and the address under which they were read. Its run id is
derived from the quarantined run and from which records these are, so that the same replay twice
is one landing, loaded once. `ingestion_runs.replayed_run_id` says of it that a record which it
does not hold is not gone.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from ingestion.batch.bronze import Bronze, load_landing
from ingestion.batch.entities import ENTITIES, Entity
from ingestion.batch.landing import Reading, land
from ingestion.batch.lines import RECORD_MEMBER
from ingestion.batch.progress import Progress, showing_progress
from ingestion.batch.receipts import LandingError, RunId, Timestamp, read_receipt
from ingestion.batch.run import finished
from ingestion.batch.run_lock import remove_traces_of_killed_runs, sole_run
from ingestion.batch.summary import Outcome, outcome_of
from ingestion.durable_files import AnotherWriterError
from ingestion.json_array import BadAnswer
from ingestion.records import check_records

# what stands in quarantine for bytes that were not UTF-8: such a record is not what was read
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


class RefusedLine(msgspec.Struct):
    """A line of quarantine."""

    run_id: RunId = msgspec.field(name="_run_id")
    ingested_at: Timestamp = msgspec.field(name="_ingested_at")
    source_url: str = msgspec.field(name="_source_url")
    position: int
    record: msgspec.Raw = msgspec.Raw(b"")


def read_line(line: bytes) -> RefusedLine:
    """Return a line of quarantine; raise msgspec.DecodeError where it is none.

    The record is cut out, not decoded: it may hold what made it refused.
    """
    head, separator, rest = line.partition(RECORD_MEMBER)
    if not separator or not rest.endswith(b"}"):
        raise msgspec.DecodeError("a line without a record")
    refused = msgspec.json.decode(head + b"}", type=RefusedLine)
    return msgspec.structs.replace(refused, record=msgspec.Raw(rest[:-1]))


class NotReplayed(Exception):  # noqa: N818
    """A quarantine cannot be read; `status` says whether it may be later."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(f"{message}. The quarantine is as it was: run the same command again")
        self.status = status


def replay(
    names: Sequence[str], run_id: str | None, raw_dir: Path, bronze: Bronze | None
) -> list[Outcome]:
    """Land and load what has become valid, one quarantine file after the other."""
    remove_traces_of_killed_runs(raw_dir)
    outcomes = []
    with showing_progress(names) as progress:
        for name in names:
            path = f"quarantine/{name}/date=*/run_id={run_id or '*'}/data*.json"
            try:
                files = _objects(bronze, path) if bronze else _files(raw_dir, path)
            except NotReplayed as error:
                outcomes.append(Outcome(name, "", error.status, message=str(error)))
                continue
            for where, read in files:
                outcomes.append(replay_one(name, where, read, raw_dir, bronze, progress))
    return outcomes


def replay_one(
    name: str,
    where: str,
    read: Callable[[], bytes],
    raw_dir: Path,
    bronze: Bronze | None,
    progress: Progress,
) -> Outcome:
    """Land and load the valid records of one quarantine file."""
    started = time.monotonic()
    try:
        outcome = _replay_valid(name, where, _decode(where, read()), raw_dir, bronze, progress)
    except NotReplayed as error:
        outcome = Outcome(name, "", error.status, where, message=str(error))
    except (LandingError, OSError) as error:
        outcome = Outcome(name, "", "failed", where, message=str(error))
    except BadAnswer as error:
        outcome = Outcome(name, "", "failed", where, message=f"{where} {error}.")
    except AnotherWriterError as error:
        outcome = Outcome(name, "", "waiting", where, message=f"{error} on this quarantine.")
    return finished(outcome, started, progress)


def valid_lines(lines: Iterable[RefusedLine], entity: Entity) -> list[RefusedLine]:
    """Return the lines whose record passes the checks that an answer's records must pass."""
    record_type = entity.record_type()

    def is_valid(line: RefusedLine) -> bool:
        if _REPLACEMENT in bytes(line.record):
            return False
        try:
            checked = check_records([[line.record]], record_type, entity.key, entity.members)
            # two in one line are not the record that was refused
            return any(len(window.raws) == len(window.keys) == 1 for window in checked)
        except BadAnswer:
            return False

    return [line for line in lines if is_valid(line)]


def replay_run_id(run_id: str, entity: str, positions: Iterable[int]) -> str:
    """Return the run id of a replay: the same for the same records of the same run."""
    which = " ".join(map(str, sorted(positions)))
    return str(uuid.uuid5(uuid.UUID(run_id), f"quarantine {entity} {which}"))


def _replay_valid(
    name: str,
    where: str,
    lines: list[RefusedLine],
    raw_dir: Path,
    bronze: Bronze | None,
    progress: Progress,
) -> Outcome:
    entity, first = ENTITIES[name], lines[0]
    progress(name, "checking", 0)
    valid = valid_lines(lines, entity)
    if not valid:
        return Outcome(name, first.run_id, "done", where, quarantined=len(lines))
    if bronze and (message := _of_another_attempt(where, name, first, bronze)):
        return Outcome(name, first.run_id, "done", where, quarantined=len(lines), message=message)
    reading = Reading(
        entity=name,
        run_id=replay_run_id(first.run_id, name, (line.position for line in valid)),
        ingested_at=first.ingested_at,
        source_url=first.source_url,
        redacted=entity.redacted,
        replayed_run_id=first.run_id,
        replayed_from=len(lines),
    )
    with sole_run(raw_dir, reading.run_id):
        landing = read_receipt(raw_dir, reading.run_id, name)
        if landing is None:
            # once more as one list, so that an id that stands twice is seen
            raws = [line.record for line in valid]
            windows = check_records([raws], entity.record_type(), entity.key, entity.members)
            landing = land(windows, raw_dir, reading, bronze.destination if bronze else None)
        if bronze:
            return load_landing(landing, raw_dir, bronze, progress)
    return outcome_of(landing, "done", str(raw_dir / landing.data_path))


def _of_another_attempt(where: str, name: str, line: RefusedLine, bronze: Bronze) -> str:
    """Return why a quarantine is nothing to add to its run, or nothing.

    An attempt without a disk may end between its quarantine and its records; the next one reads
    another answer. What was refused of an answer that never landed adds nothing to the run.
    """
    from ingestion.batch.upload import find_uploaded

    with _reading_bucket():
        landing = find_uploaded(bronze.bucket, name, line.run_id, bronze.limits)
    if landing and landing.ingested_at == line.ingested_at:
        return ""
    return (
        f"{where} is kept, and not loaded: it is of an attempt whose records never came into the "
        f"bucket. Run {line.run_id} holds {'those of a later one' if landing else 'nothing yet'}"
    )


def _decode(where: str, text: bytes) -> list[RefusedLine]:
    try:
        lines = [read_line(line) for line in text.splitlines()]
    except msgspec.DecodeError as error:
        raise LandingError(f"{where} is not a quarantine file: {error}") from None
    # its own path and the run id of its lines say the same, or it is somebody else's
    if not lines or any(f"run_id={line.run_id}/" not in where for line in lines):
        raise LandingError(f"{where} does not hold the quarantine of one run")
    return lines


def _files(raw_dir: Path, path: str) -> list[tuple[str, Callable[[], bytes]]]:
    return [(str(file), file.read_bytes) for file in sorted(raw_dir.glob(path))]


def _objects(bronze: Bronze, path: str) -> list[tuple[str, Callable[[], bytes]]]:
    prefix, pattern = f"raw/{path.partition('date=')[0]}", f"raw/{path}"
    limits = bronze.limits
    with _reading_bucket():
        blobs = bronze.bucket.list_blobs(prefix=prefix, match_glob=pattern, **limits.of_storage())
        # an emulator may not know match_glob
        found = [blob for blob in blobs if fnmatchcase(blob.name, pattern)]

    def reader(blob: Any) -> Callable[[], bytes]:
        def read() -> bytes:
            with _reading_bucket():
                content: bytes = blob.download_as_bytes(**limits.of_storage(blob.size))
                return content

        return read

    return [(f"gs://{bronze.bucket_name}/{blob.name}", reader(blob)) for blob in found]


@contextmanager
def _reading_bucket() -> Iterator[None]:
    from ingestion.batch.google_calls import Rejected, Unavailable, calling

    try:
        with calling("Cloud Storage"):
            yield
    except Unavailable as error:
        raise NotReplayed(str(error), "waiting") from None
    except Rejected as error:
        raise NotReplayed(str(error), "failed") from None
