"""Objects that lie where a run would upload its own: taken up, or left alone with a sentence."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from ingestion.batch.receipts import LandingError, decode_receipt
from tests.support.batch_place import RUN_ID, Place, one_copy

CONTENT = b'{"_run_id":"somebody\'s"}\n'


def receipt(**others: Any) -> dict[str, Any]:
    checksum = google_crc32c.Checksum(CONTENT)
    return {
        "entity": "users",
        "run_id": RUN_ID,
        "ingested_at": "2026-11-22T10:00:00.000000Z",
        "source_url": "https://fakestoreapi.com/users",
        "records": 1,
        "quarantined": 0,
        "bytes": len(CONTENT),
        "crc32c": base64.b64encode(checksum.digest()).decode(),
        "is_waiting": True,
        "version": 1,
        **others,
    }


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        (None, "is not what a run has landed"),
        ({"receipt": "{"}, "is not a receipt"),
        ({"receipt": receipt(member="unknown")}, "unknown field `member`"),
        ({"receipt": receipt(version=2)}, "of version 2, a newer program's"),
        ({"receipt": receipt(entity="products")}, "is not what a run has landed"),
        ({"receipt": receipt(entity="../users")}, "is not a receipt"),
        ({"receipt": receipt(run_id=RUN_ID.replace("2", "3"))}, "is not what a run has landed"),
        ({"receipt": receipt(run_id="../../x")}, "is not a receipt"),
        ({"receipt": receipt(ingested_at="2026-11-23T10:00:00.000000Z")}, "is not what a run"),
        ({"receipt": receipt(crc32c="AAAAAA==")}, "is not what a run has landed"),
    ],
)
def test_an_object_that_is_not_this_runs_own_is_left_and_named(
    place: Place, tmp_path: Path, metadata: dict[str, Any] | None, sentence: str
) -> None:
    name = f"raw/users/date=2026-11-22/run_id={RUN_ID}/data.json"
    blob = place.gcp.clients.storage.bucket(place.bucket_name).blob(name)
    if metadata:
        given = metadata["receipt"]
        blob.metadata = {"receipt": given if isinstance(given, str) else json.dumps(given)}
    blob.upload_from_string(CONTENT)
    assert place.run("--run-id", RUN_ID, "--entities", "users") == 1
    (outcome,) = place.summary
    assert sentence in outcome["message"]
    assert f"gs://{place.bucket_name}/{name}" in outcome["message"]
    assert "give another --run-id" in outcome["message"]
    assert place.rows("users_raw") == []
    assert blob.download_as_bytes() == CONTENT
    # the folder of other files is the test's own: nothing was written beside the raw folder
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert place.store.requests == []


@pytest.mark.parametrize(
    "others",
    [
        # as long as a day
        {"ingested_at": "../../../x"},
        {"ingested_at": "2026-11-22T10:00:00.000000Z\n"},
        {"run_id": "../../x"},
        {"run_id": RUN_ID.upper().replace("2", "A")},
        {"entity": "../users"},
        {"replayed_run_id": ".."},
    ],
)
def test_no_receipt_can_name_a_path_of_its_own(others: dict[str, str]) -> None:
    assert decode_receipt(json.dumps(receipt()), "here").entity == "users"
    with pytest.raises(LandingError, match="here is not a receipt"):
        decode_receipt(json.dumps(receipt(**others)), "here")


def test_another_run_is_not_held_up_by_an_object_that_is_nobodys(place: Place) -> None:
    other = RUN_ID.replace("2", "3")
    name = f"raw/users/date=2026-11-22/run_id={other}/data.json"
    place.gcp.clients.storage.bucket(place.bucket_name).blob(name).upload_from_string(CONTENT)
    assert place.run("--run-id", RUN_ID) == 0
    assert place.copies() == one_copy(RUN_ID)
