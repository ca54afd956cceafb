"""The proxy before fake-gcs-server: what it refuses, and that nothing else notices it."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from google.api_core.exceptions import MethodNotImplemented, PreconditionFailed
from google.cloud.storage import Blob, Bucket

from local_gcp.resources import BUCKET_NAME
from local_gcp.servers import LocalGcp

# more than a multipart upload takes
LARGE_BYTES = 9 << 20


@pytest.fixture
def bucket(storage: LocalGcp) -> Bucket:
    return storage.clients.storage.bucket(BUCKET_NAME)


@pytest.fixture
def blob(bucket: Bucket) -> Blob:
    blob = bucket.blob(f"{uuid.uuid4()} é/+?#.json")
    blob.upload_from_string(b"first", timeout=60)
    return blob


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large"
    file.write_bytes(random.Random(1).randbytes(LARGE_BYTES))
    return file


@pytest.mark.parametrize(
    "call",
    [
        lambda blob, large: blob.delete(if_generation_match=1, retry=None),
        lambda blob, large: blob.download_as_bytes(if_generation_match=1, retry=None),
        lambda blob, large: blob.reload(if_generation_not_match=1, retry=None),
        lambda blob, large: blob.patch(if_metageneration_match=1, retry=None),
        lambda blob, large: blob.compose([blob], if_generation_match=1, retry=None),
        lambda blob, large: blob.rewrite(blob, if_source_generation_match=1, retry=None),
        lambda blob, large: blob.bucket.copy_blob(blob, blob.bucket, "x", if_generation_match=0),
        lambda blob, large: blob.upload_from_filename(large, if_generation_match=1, retry=None),
        lambda blob, large: blob.upload_from_string(b"2", if_metageneration_match=1, retry=None),
    ],
)
def test_a_precondition_that_the_emulator_ignores_is_refused(
    blob: Blob, large: Path, call: Callable[[Blob, Path], object]
) -> None:
    with pytest.raises(MethodNotImplemented, match="would ignore the precondition"):
        call(blob, large)
    assert blob.download_as_bytes(timeout=60) == b"first"


def test_a_multipart_upload_keeps_its_precondition(blob: Blob) -> None:
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(b"second", if_generation_match=1, timeout=60)
    blob.upload_from_string(b"second", if_generation_match=blob.generation, timeout=60)
    assert blob.download_as_bytes(timeout=60) == b"second"


def test_an_upload_in_pieces_creates_and_does_not_replace(
    bucket: Bucket, blob: Blob, large: Path
) -> None:
    with pytest.raises(PreconditionFailed):
        blob.upload_from_filename(large, if_generation_match=0, timeout=60)
    assert blob.download_as_bytes(timeout=60) == b"first"
    new = bucket.blob(str(uuid.uuid4()), chunk_size=1 << 20)
    new.upload_from_filename(large, if_generation_match=0, timeout=60)
    assert new.download_as_bytes(timeout=60) == large.read_bytes()


def test_a_body_of_unknown_length_passes(storage: LocalGcp, bucket: Bucket) -> None:
    """The client never sends one; curl and others do."""
    import requests

    name = str(uuid.uuid4())
    url = f"{storage.environment['STORAGE_EMULATOR_HOST']}/upload/storage/v1/b/{bucket.name}/o"
    pieces = [b"x" * 70_000, b"y", b"z" * 300_000]
    with requests.Session() as session:
        for _ in range(2):
            sent = session.post(
                url,
                params={"uploadType": "media", "name": name},
                data=iter(pieces),
                timeout=60,
            )
            assert sent.status_code == 200
    assert bucket.blob(name).download_as_bytes(timeout=60) == b"".join(pieces)
