"""From the raw folder to Cloud Storage: an object is created once and never replaced.

The upload may be repeated, by this process or by another one after a kill or a lost answer: an
object that is there already and has our checksum is ours. The landing's receipt travels with it
as metadata, so that any machine can finish the run.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from google.api_core import exceptions
from google.cloud.storage import Blob, Bucket

from ingestion.batch.google_calls import Limits, Rejected, calling
from ingestion.batch.receipts import Landing, LandingError, decode_receipt
from ingestion.checksum import crc32c_of_file
from ingestion.durable_files import failpoint

# the client holds a chunk of a large upload in memory; its own default is 100 MB
UPLOAD_CHUNK_BYTES = 1 << 24


def find_uploaded(bucket: Bucket, entity: str, run_id: str, limits: Limits) -> Landing | None:
    """Return what a run of this id has uploaded already, perhaps from another machine.

    Raises LandingError where the object is not what a run of this id has landed.
    """
    ending = f"/run_id={run_id}/data.json"
    with calling("Cloud Storage"):
        blobs = bucket.list_blobs(
            prefix=f"raw/{entity}/",
            match_glob=f"raw/{entity}/date=*{ending}",
            **limits.of_storage(),
        )
        # an emulator may not know match_glob
        found = [blob for blob in blobs if blob.name.endswith(ending)]
    for blob in found:
        return _landing_of(blob)
    return None


def upload_once(bucket: Bucket, landing: Landing, raw_dir: Path, limits: Limits) -> Landing:
    """Create the objects of `landing`, its quarantine first; return what is there.

    What a run of this id uploaded first stays, even if it read another answer.
    """
    uploaded = find_uploaded(bucket, landing.entity, landing.run_id, limits)
    if not uploaded:
        file = raw_dir / landing.data_path
        if not file.exists() or crc32c_of_file(file) != landing.crc32c:
            raise Rejected(f"{file} is not what was landed, and is not uploaded")
        if landing.quarantine_path:
            _upload_quarantine(bucket, landing.quarantine_path, landing, raw_dir, limits)
            failpoint("quarantine-uploaded")
        created = _create_once(bucket, landing.data_path, file, landing, limits)
        if created.crc32c != landing.crc32c:
            raise _taken(created)
        uploaded = landing
    failpoint("object-uploaded")
    return uploaded


def uri_of(bucket: Bucket, landing: Landing) -> str:
    """Return the address of a landing's object."""
    return f"gs://{bucket.name}/raw/{landing.data_path}"


def _landing_of(blob: Blob) -> Landing:
    """Return the landing that an object's receipt tells of, if it tells of this object."""
    uri = f"gs://{blob.bucket.name}/{blob.name}"
    advice = "it is left as it is: give another --run-id"
    receipt = (blob.metadata or {}).get("receipt")
    if not receipt:
        raise LandingError(f"{uri} is not what a run has landed; {advice}")
    try:
        landing = decode_receipt(receipt, f"the receipt of {uri}")
    except LandingError as error:
        raise LandingError(f"{error}; {advice}") from None
    # the receipt says where files are written: it may name its own place only
    if f"raw/{landing.data_path}" != blob.name or landing.crc32c != blob.crc32c:
        raise LandingError(f"{uri} is not what a run has landed; {advice}")
    return landing


def _upload_quarantine(
    bucket: Bucket, path: str, landing: Landing, raw_dir: Path, limits: Limits
) -> None:
    """Create the object of the refused records, beside that of an attempt that got no further.

    Such an attempt was made without a disk, or on another one, and read another answer.
    """
    file = raw_dir / path
    crc32c = crc32c_of_file(file)
    read_at = re.sub(r"[^0-9TZ]", "", landing.ingested_at)
    for name in (path, path.replace("data.json", f"data-{read_at}.json")):
        created = _create_once(bucket, name, file, landing, limits)
        if created.crc32c == crc32c:
            return
    raise _taken(created)


def _taken(blob: Blob) -> Rejected:
    return Rejected(f"gs://{blob.bucket.name}/{blob.name} holds something else")


def _create_once(bucket: Bucket, path: str, file: Path, landing: Landing, limits: Limits) -> Blob:
    """Create an object of a file, and return it or the one that is there already."""
    size = file.stat().st_size
    chunk_bytes = UPLOAD_CHUNK_BYTES if size > UPLOAD_CHUNK_BYTES else None
    blob = bucket.blob(f"raw/{path}", chunk_size=chunk_bytes)
    # what lies in the bucket may be loaded into any dataset
    receipt = msgspec.structs.replace(landing, destination=None)
    blob.metadata = {"receipt": msgspec.json.encode(receipt).decode()}
    with calling("Cloud Storage"):
        try:
            blob.upload_from_filename(
                file,
                content_type="application/x-ndjson",
                if_generation_match=0,
                checksum="crc32c",
                **limits.of_storage(size),
            )
        except (exceptions.PreconditionFailed, exceptions.Forbidden) as error:
            # an attempt whose answer was lost has created it; an account that may create and
            # not overwrite is told 403 instead of 412
            try:
                blob.reload(**limits.of_storage())
            except exceptions.NotFound:
                raise error from None
    return blob
