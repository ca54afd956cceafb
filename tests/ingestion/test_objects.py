"""Objects of a bucket, on fake-gcs-server behind a network that fails."""

from __future__ import annotations

import math
import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from ingestion import objects
from ingestion.bucket_errors import BucketRefusedError, BucketUnreachableError, ReplacedError
from ingestion.objects import ObjectFolder, Patience
from local_gcp.resources import STATE_BUCKET_NAME
from local_gcp.servers import LocalGcp
from tests.support.faulty_storage import faulty_storage
from tests.support.flaky_proxy import FaultProxy

# a busy machine answers at last
PATIENT = Patience(60.0)
HASTY = Patience(0.5)


def folder_at(port: int, patience: Patience, bucket_name: str = STATE_BUCKET_NAME) -> ObjectFolder:
    """Return a folder of its own, reached through `port`."""
    client = Client(
        project="local-project",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": f"http://127.0.0.1:{port}"},
    )
    return ObjectFolder(client.bucket(bucket_name), f"{uuid.uuid4()}/", patience)


@pytest.fixture
def proxy(storage: LocalGcp) -> Iterator[FaultProxy]:
    proxy = FaultProxy(storage.ports["gcs"])
    yield proxy
    proxy.close()


@pytest.fixture
def folder(proxy: FaultProxy) -> ObjectFolder:
    return folder_at(proxy.port, PATIENT)


@pytest.fixture
def hasty(proxy: FaultProxy) -> ObjectFolder:
    """Return a folder that gives up soon; for what is never answered."""
    return folder_at(proxy.port, HASTY)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large"
    file.write_bytes(random.Random(1).randbytes(objects.SINGLE_REQUEST_BYTES + 1))
    return file


def test_an_object_is_written_once_and_read_whole(folder: ObjectFolder) -> None:
    assert folder.read("a/1") is None
    stored = folder.write_once("a/1", b"content")
    assert folder.write_once("a/1", b"content") == stored
    with pytest.raises(BucketRefusedError, match="holds something else"):
        folder.write_once("a/1", b"another")
    assert folder.read("a/1")[0] == b"content"  # type: ignore[index]
    folder.write_once("a/2", b"")
    folder.write_once("b/1", b"")
    assert (folder.names("a/"), folder.names("a/", "a/2")) == (["a/1", "a/2"], ["a/2"])
    folder.delete("a/1")
    folder.delete("a/1")
    assert folder.names("") == ["a/2", "b/1"]


def test_only_the_generation_that_was_seen_is_replaced(folder: ObjectFolder) -> None:
    first = folder.replace("head", b"1", 0)
    second = folder.replace("head", b"2", first)
    for generation in (0, first):
        with pytest.raises(ReplacedError):
            folder.replace("head", b"3", generation)
    assert folder.read("head") == (b"2", second)


def test_a_large_file_goes_up_and_comes_down_whole(
    folder: ObjectFolder, large: Path, tmp_path: Path
) -> None:
    stored = folder.upload_once("state/1", large)
    folder.download(stored, tmp_path / "copy" / "down")
    assert (tmp_path / "copy" / "down").read_bytes() == large.read_bytes()
    folder.delete(stored.name)
    with pytest.raises(FileNotFoundError):
        folder.download(stored, tmp_path / "down")


def test_a_download_that_is_cut_is_not_taken_for_the_object(
    folder: ObjectFolder, proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    stored = folder.upload_once("state/1", large)
    proxy.cut_after = 100_000
    proxy.mode = "cut"
    folder._patience = HASTY
    with pytest.raises(BucketUnreachableError):
        folder.download(stored, tmp_path / "down")


@pytest.mark.parametrize("mode", ["refuse", "reset", "blackhole", "lost_reply"])
@pytest.mark.parametrize(
    "call",
    [
        lambda folder: folder.read("x"),
        lambda folder: folder.replace("y", b"1", 0),
        lambda folder: folder.names(""),
        lambda folder: folder.delete("x"),
    ],
)
def test_a_network_that_fails_is_told_in_bounded_time(
    hasty: ObjectFolder, proxy: FaultProxy, mode: str, call: Callable[[ObjectFolder], object]
) -> None:
    proxy.mode = mode
    started = time.monotonic()
    try:
        call(hasty)
    except (BucketUnreachableError, ReplacedError) as error:
        # a lost answer to a write: the second attempt finds the first one's object
        assert not isinstance(error, ReplacedError) or mode == "lost_reply"
    else:
        pytest.fail("it did not notice")
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_service_that_is_busy_is_told_in_bounded_time(storage: LocalGcp, status: int) -> None:
    with faulty_storage(storage.ports["gcs"]) as busy:
        busy.judge = lambda method, address: status
        folder = folder_at(busy.port, HASTY)
        started = time.monotonic()
        with pytest.raises(BucketUnreachableError):
            folder.write_once("x", b"1")
        with pytest.raises(BucketUnreachableError):
            folder.read("x")
        assert time.monotonic() - started < 60


def test_who_may_create_only_gets_403_where_others_get_412(storage: LocalGcp) -> None:
    with faulty_storage(storage.ports["gcs"]) as strict:
        folder = folder_at(strict.port, PATIENT)
        folder.write_once("x", b"1")
        strict.judge = lambda method, address: 403 if method == "POST" else None
        folder.write_once("x", b"1")
        with pytest.raises(BucketRefusedError, match="holds something else"):
            folder.write_once("x", b"2")


def test_a_signal_shortens_what_is_waited(folder: ObjectFolder, proxy: FaultProxy) -> None:
    proxy.mode = "blackhole"
    left = 0.2
    hurried = ObjectFolder(folder._bucket, "x/", Patience(120.0, lambda: left))
    started = time.monotonic()
    with pytest.raises(BucketUnreachableError):
        hurried.read("x")
    assert time.monotonic() - started < 60


def test_a_signal_ends_an_upload_between_two_pieces(
    proxy: FaultProxy, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PIECE_BYTES", 1 << 18)
    asked = []

    def left() -> float:
        asked.append(1)
        return math.inf if len(asked) < 9 else 0.0

    folder = folder_at(proxy.port, Patience(60.0, left))
    with pytest.raises(BucketUnreachableError):
        folder.upload_once("state/1", large)
    assert folder_at(proxy.port, PATIENT).names("") == []


def test_a_bucket_that_is_not_there_is_a_sentence(proxy: FaultProxy) -> None:
    folder = folder_at(proxy.port, PATIENT, "nowhere")
    with pytest.raises(BucketRefusedError, match="nowhere does not exist: make it with"):
        folder.write_once("x", b"1")
