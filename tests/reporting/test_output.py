"""Where the report goes: a file, or an object that the next report replaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion.bucket_errors import BucketRefusedError
from ingestion.settings import ConfigurationError
from local_gcp.servers import LocalGcp
from reporting.output import write_page
from tests.support.faulty_storage import faulty_storage


def test_a_file_gets_its_folder_and_the_address_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "index.html"
    assert write_page("päge", str(file), "p") == file.as_uri()
    assert file.read_text(encoding="utf-8") == "päge"


def test_an_object_is_replaced_and_opens_as_a_page(gcp: LocalGcp) -> None:
    bucket = gcp.clients.storage.create_bucket("report-of-a-test")
    for page in ("yesterday's", "today's päge"):
        address = write_page(page, f"gs://{bucket.name}/index.html", gcp.project_id)
    assert address == "https://storage.cloud.google.com/report-of-a-test/index.html"
    blob = bucket.get_blob("index.html")
    assert blob.download_as_text() == "today's päge"
    assert blob.content_type == "text/html; charset=utf-8"
    assert blob.cache_control == "no-cache"


def test_a_missing_bucket_is_one_sentence(gcp: LocalGcp) -> None:
    with pytest.raises(BucketRefusedError, match=r"^The bucket no-such-bucket .* with --output\.$"):
        write_page("page", "gs://no-such-bucket/index.html", gcp.project_id)


def test_whoever_may_not_write_is_told_the_role(
    gcp: LocalGcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty_storage(gcp.ports["gcs"]) as strict:
        strict.judge = lambda method, address: 403 if method == "POST" else None
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{strict.port}")
        with pytest.raises(BucketRefusedError, match=r"^gs://any/x was refused .*: grant roles/"):
            write_page("page", "gs://any/x", gcp.project_id)


def test_an_address_without_an_object_is_a_wrong_configuration(gcp: LocalGcp) -> None:
    with pytest.raises(ConfigurationError, match=r"'gs://bucket' names no object"):
        write_page("page", "gs://bucket", gcp.project_id)
