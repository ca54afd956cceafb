"""The way of one landing into bronze: uploaded, loaded, recorded, and then removed from the disk.

It may be cut anywhere and begun anew: each step happens once. Where Google Cloud is out of reach
or says no, the outcome says what is kept, where, and what to type.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestion.batch.progress import Progress
from ingestion.batch.receipts import Destination, Landing, LandingError, remove_landing
from ingestion.batch.source_check import other_source, source_of
from ingestion.batch.summary import Outcome, outcome_of

if TYPE_CHECKING:
    from ingestion.batch.google_calls import Limits


@dataclass(frozen=True)
class Commands:
    """The script with the flags that its place depends on, as somebody would type it."""

    script: str
    destination_words: Sequence[str]
    # what is said in each of them
    common_words: Sequence[str]
    # what a run needs that asks the API again, and a resumption does not
    rerun_words: Sequence[str] = ()

    @property
    def resume(self) -> str:
        """The command that finishes what waits on the disk."""
        return self._resume(self.destination_words)

    def resume_for(self, other: Destination) -> str:
        """Return the command that finishes what waits on the disk for another destination."""
        words = ["--project-id", other.project_id, "--bucket-name", other.bucket_name]
        return self._resume([*words, "--dataset-id", other.dataset_id])

    def rerun(self, landing: Landing) -> str:
        """Return the command that finishes one run, from the bucket or by asking the API again."""
        which = ["--run-id", landing.run_id, "--entities", landing.entity]
        where = [*self.destination_words, *self.common_words]
        return shlex.join(["python", self.script, *which, *where, *self.rerun_words])

    def _resume(self, words: Sequence[str]) -> str:
        return shlex.join(["python", self.script, "--resume", *words, *self.common_words])


@dataclass(frozen=True)
class Bronze:
    """Where the records go: Google's clients, the names there, and how long to wait.

    `has_disk` is False where the raw folder does not outlive the process. `compared` are the
    addresses of APIs of which it is known that the dataset was filled from no other.
    """

    storage: Any
    bigquery: Any
    bucket_name: str
    dataset_id: str
    limits: Limits
    commands: Commands
    has_disk: bool = True
    accepts_new_source: bool = False
    compared: set[str] = field(default_factory=set)

    @property
    def bucket(self) -> Any:
        """The bucket of the raw zone."""
        return self.storage.bucket(self.bucket_name)

    @property
    def destination(self) -> Destination:
        """The place as receipts name it."""
        return Destination(self.bigquery.project, self.bucket_name, self.dataset_id)

    def table_of(self, entity: str) -> str:
        """Return the name of an entity's bronze table."""
        return f"{self.dataset_id}.{entity}_raw"


def load_landing(landing: Landing, raw_dir: Path, bronze: Bronze, progress: Progress) -> Outcome:
    """Upload, load and record a landing, as far as Google Cloud allows.

    One that waits for another destination is left alone, and so is one of another API than that
    which the dataset was filled from.
    """
    from ingestion.batch.google_calls import Rejected, Unavailable
    from ingestion.batch.load import load_once, offending_line, record_once
    from ingestion.batch.upload import upload_once, uri_of

    if outcome := misdirected(landing, raw_dir, bronze):
        return outcome
    entity, file = landing.entity, raw_dir / landing.data_path
    uri = None
    try:
        progress(entity, "uploading", 0)
        uploaded = upload_once(bronze.bucket, landing, raw_dir, bronze.limits)
        uri = uri_of(bronze.bucket, uploaded)
        if old := _other_source(uploaded, bronze):
            message = f"{uploaded.source_url} was read, and {bronze.dataset_id} was filled from "
            message += f"{old}. {what_to_do(landing, raw_dir, uri, bronze, 'wait')} --new-source"
            outcome = outcome_of(uploaded, "waiting", uri, message)
            return replace(outcome, is_misdirected=True)
        progress(entity, "loading", 0)
        job = load_once(bronze.bigquery, bronze.dataset_id, uploaded, uri, bronze.limits)
        progress(entity, "recording", 0)
        record_once(bronze.bigquery, bronze.dataset_id, uploaded, uri, job, bronze.limits)
        remove_landing(raw_dir, landing)
    except Unavailable as error:
        message = f"{error}. {what_to_do(landing, raw_dir, uri, bronze, 'wait')}"
        return outcome_of(landing, "waiting", uri or str(file), message)
    except Rejected as error:
        line = offending_line(file, str(error))
        place = f" (line {line} of {file})" if line else ""
        message = f"{error}{place}. {what_to_do(landing, raw_dir, uri, bronze, 'are kept')}"
        return outcome_of(landing, "failed", uri or str(file), message)
    except (LandingError, OSError) as error:
        message = f"{error}. {what_to_do(landing, raw_dir, uri, bronze, 'are kept')}"
        return outcome_of(landing, "failed", uri or str(file), message)
    return outcome_of(uploaded, "done", bronze.table_of(entity))


def misdirected(landing: Landing, raw_dir: Path, bronze: Bronze) -> Outcome | None:
    """Return the outcome of a landing that waits for another destination, and else None."""
    other = landing.destination
    if other is None or other == bronze.destination:
        return None
    file = str(raw_dir / landing.data_path)
    message = (
        f"The records in {file} wait for {other}, and this command goes to {bronze.destination}. "
        f"They stay; finish with: {bronze.commands.resume_for(other)}"
    )
    return replace(outcome_of(landing, "waiting", file, message), is_misdirected=True)


def _other_source(landing: Landing, bronze: Bronze) -> str | None:
    """Return the API that the dataset was filled from before, if it is another one's landing."""
    if landing.replayed_run_id:  # it is of a run that has been compared
        return None
    read_at = datetime.fromisoformat(landing.ingested_at)
    source = source_of(landing.entity, landing.source_url)
    return other_source(source, bronze, until=read_at)


def what_to_do(
    landing: Landing, raw_dir: Path, uri: str | None, bronze: Bronze, how_kept: str
) -> str:
    """Return where the records are and the command that finishes the job."""
    when = "" if how_kept == "wait" else "when this is corrected, "
    if bronze.has_disk:
        file = raw_dir / landing.data_path
        kept = file if file.exists() else uri or file
        return f"The records {how_kept} in {kept}; {when}finish with: {bronze.commands.resume}"
    command = bronze.commands.rerun(landing)
    if uri:
        return f"The records {how_kept} in {uri}; {when}finish with: {command}"
    return (
        "Without a disk nothing is kept before it is uploaded: "
        f"{when or 'later, '}ask the API again with: {command}"
    )
