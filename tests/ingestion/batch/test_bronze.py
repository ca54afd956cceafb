"""From the raw zone to bronze on the local GCP: one copy of each record, whatever breaks when."""

from __future__ import annotations

import base64
import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec
import pytest

from ingestion.batch import load as bronze_load
from ingestion.batch import receipts, upload
from ingestion.batch.google_calls import Limits
from ingestion.batch.run_lock import sole_run
from local_gcp import resources
from tests.support.batch_place import (
    EXPECTED,
    RUN_ID,
    USERS,
    Place,
    one_copy,
    one_row,
    parsed,
)
from tests.support.flaky_proxy import FaultProxy
from tests.support.scripted_http import answer
from tests.support.shared import FAKESTORE


def test_a_run_ends_in_the_bucket_in_bronze_and_in_the_manifest(place: Place) -> None:
    assert place.run("--run-id", RUN_ID) == 0
    manifest = {row["entity"]: row for row in place.rows("ingestion_runs")}
    assert len(manifest) == len(place.rows("ingestion_runs")) == 2
    for entity, records in EXPECTED.items():
        row = manifest[entity]
        day = row["started_at"].date().isoformat()
        name = f"raw/{entity}/date={day}/run_id={RUN_ID}/data.json"
        content = place.objects()[name].download_as_bytes()
        lines = [json.loads(line) for line in content.splitlines()]
        assert [line["record"] for line in lines] == records
        assert row["finished_at"] >= row["started_at"]
        checksum = google_crc32c.Checksum(content).digest()
        assert {**row, "started_at": None, "finished_at": None} == {
            "run_id": RUN_ID,
            "entity": entity,
            "object": f"gs://{place.bucket_name}/{name}",
            "records": len(records),
            "quarantined": 0,
            "bytes": len(content),
            "crc32c": base64.b64encode(checksum).decode(),
            "job_id": f"batch-{place.dataset_id}-{entity}-{RUN_ID}",
            "started_at": None,
            "finished_at": None,
            "status": "loaded",
            "replayed_run_id": None,
        }
        bronze = sorted(place.rows(f"{entity}_raw"), key=lambda row: parsed(row["record"])["id"])
        assert [{**row, "record": parsed(row["record"])} for row in bronze] == [
            {
                "record": record,
                "_run_id": RUN_ID,
                "_ingested_at": row["started_at"],
                "_source_url": f"{place.store.url}/{entity}",
            }
            for record in records
        ]
    assert len(place.objects()) == 2
    assert place.files() == []
    assert {each["where"] for each in place.summary} == {
        f"{place.dataset_id}.products_raw",
        f"{place.dataset_id}.users_raw",
    }


def test_a_refused_record_is_uploaded_to_quarantine_and_counted(place: Place) -> None:
    users = [b'{"id":%d,"email":"a","username":"b"}' % number for number in range(19)]
    refused = b'{"id":"x","login":{"password":"sesame"}}'
    place.store.answers["/users"] = [answer(200, b"[%b]" % b",".join([*users, refused]))]
    assert place.run("--entities", "users") == 0
    (row,) = place.rows("ingestion_runs")
    assert (row["records"], row["quarantined"]) == (19, 1)
    (name,) = [name for name in place.objects() if name.startswith("raw/quarantine/users/date=")]
    (line,) = place.objects()[name].download_as_bytes().splitlines()
    assert json.loads(line)["record"] == {"id": "x", "login": {}}
    assert len(place.rows("users_raw")) == 19
    assert place.files() == []


def test_the_real_carts_are_loaded_when_they_are_asked_for(place: Place) -> None:
    if not (FAKESTORE / "carts.json").is_file():
        pytest.skip("../shared/fakestore/carts.json is missing: the real carts are not tested")
    carts = (FAKESTORE / "carts.json").read_bytes()
    place.store.answers["/carts"] = [answer(200, carts)]
    assert place.run("--run-id", RUN_ID, "--entities", "products", "users", "carts") == 0
    loaded = [parsed(row["record"]) for row in place.rows("carts_raw")]
    assert sorted(loaded, key=lambda cart: cart["id"]) == json.loads(carts)
    assert len(loaded) == 7
    assert place.manifest() == one_row(RUN_ID) + Counter({(RUN_ID, "carts", "loaded"): 1})


def test_no_password_reaches_the_bucket_or_bronze(place: Place) -> None:
    assert place.run() == 0
    everything = str(place.rows("products_raw") + place.rows("users_raw")).encode()
    for blob in place.objects().values():
        everything += blob.download_as_bytes() + str(blob.metadata).encode()
    assert b"Mug" in everything
    assert b"sesame" not in everything
    assert b"password" not in everything


def test_a_second_run_of_the_same_id_changes_nothing_even_from_another_machine(
    place: Place, tmp_path: Path
) -> None:
    assert place.run("--run-id", RUN_ID) == 0
    generations = {name: blob.generation for name, blob in place.objects().items()}
    first = [{**each, "seconds": None} for each in place.summary]
    place.store.answers["/users"] = [answer(200, USERS.replace(b'"id":7', b'"id":8'))]
    for raw_dir in (place.raw_dir, tmp_path / "another"):
        place.raw_dir = raw_dir
        assert place.run("--run-id", RUN_ID) == 0
        assert [{**each, "seconds": None} for each in place.summary] == first
    assert len(place.store.requests) == 2
    assert {name: blob.generation for name, blob in place.objects().items()} == generations
    assert place.copies() == one_copy(RUN_ID)
    assert place.manifest() == one_row(RUN_ID)
    assert place.files() == []


def test_what_was_landed_with_local_only_is_loaded_by_the_same_run_id(place: Place) -> None:
    assert place.run("--run-id", RUN_ID, "--local-only") == 0
    assert place.run("--resume") == 0
    assert place.summary == []
    assert place.run("--run-id", RUN_ID) == 0
    assert len(place.store.requests) == 2
    assert place.copies() == one_copy(RUN_ID)


# killed at each step

STEPS = ["data-written", "object-uploaded", "object-loaded", "run-recorded"]
MORE_STEPS = ["receipt-torn", "receipt-written", "receipt-replaced", "data-replaced"]
MORE_STEPS += ["job-started", "job-started:3", "data-removed", "data-removed:2"]


@pytest.mark.parametrize(
    "step", [*STEPS, *(pytest.param(step, marks=pytest.mark.slow) for step in MORE_STEPS)]
)
def test_a_run_killed_anywhere_and_run_again_ends_in_one_copy(place: Place, step: str) -> None:
    assert place.run_until(step, "--run-id", RUN_ID) == -9
    assert place.run("--run-id", RUN_ID) == 0
    assert place.copies() == one_copy(RUN_ID)
    assert place.manifest() == one_row(RUN_ID)
    assert len(place.objects()) == 2
    assert place.files() == []


@pytest.mark.slow
@pytest.mark.parametrize("step", ["object-uploaded", "job-started", "object-loaded"])
def test_a_resumption_killed_and_resumed_ends_in_one_copy(place: Place, step: str) -> None:
    place.run_until("receipt-replaced:2", "--run-id", RUN_ID)
    assert place.run_until(step, "--resume") == -9
    assert place.run("--resume") == 0
    assert place.copies() == one_copy(RUN_ID)
    assert place.manifest() == one_row(RUN_ID)
    assert place.files() == []


def test_a_run_killed_after_its_upload_is_finished_by_another_machine(
    place: Place, tmp_path: Path
) -> None:
    assert place.run_until("object-uploaded:2", "--run-id", RUN_ID) == -9
    asked = len(place.store.requests)
    place.raw_dir = tmp_path / "another"
    assert place.run("--run-id", RUN_ID) == 0
    assert len(place.store.requests) == asked
    assert place.copies() == one_copy(RUN_ID)
    assert place.manifest() == one_row(RUN_ID)


# out of reach


@pytest.mark.parametrize(
    ("mode", "down"),
    [
        ("refuse", ["STORAGE"]),
        ("refuse", ["BIGQUERY"]),
        ("refuse", ["STORAGE", "BIGQUERY"]),
        ("blackhole", ["BIGQUERY"]),
        pytest.param("blackhole", ["STORAGE"], marks=pytest.mark.slow),
        pytest.param("blackhole", ["STORAGE", "BIGQUERY"], marks=pytest.mark.slow),
        pytest.param("reset", ["STORAGE"], marks=pytest.mark.slow),
        pytest.param("reset", ["BIGQUERY"], marks=pytest.mark.slow),
    ],
)
def test_what_google_cannot_take_waits_and_is_finished_once_by_resume(
    place: Place,
    proxies: dict[str, FaultProxy],
    caplog: pytest.LogCaptureFixture,
    down: list[str],
    mode: str,
) -> None:
    for service in down:
        proxies[service].mode = mode
    started = time.monotonic()
    assert place.run("--run-id", RUN_ID, "--cloud-timeout", "1") == 3
    assert time.monotonic() - started < 60
    assert [each["status"] for each in place.summary] == ["waiting", "waiting"]
    assert len([name for name in place.files() if name.endswith("/data.json")]) == 2
    assert len(place.objects()) == (0 if "STORAGE" in down else 2)
    assert place.manifest() == Counter()
    service = "Cloud Storage" if "STORAGE" in down else "BigQuery"
    assert f"{service} could not be reached" in caplog.text
    for name in place.files():
        assert name.startswith(".runs/") or f"wait in {place.raw_dir / name}; finish" in caplog.text
    assert f"python batch_ingestion.py --resume --bucket-name {place.bucket_name}" in caplog.text

    # still away: it goes on waiting
    assert place.run("--resume", "--cloud-timeout", "1") == 3
    for service in down:
        proxies[service].mode = "ok"
    place.store.answers = {}
    assert place.run("--resume") == 0
    assert [each["status"] for each in place.summary] == ["done", "done"]
    assert place.run("--resume") == 0
    assert place.summary == []
    assert place.run("--run-id", RUN_ID) == 0
    assert place.copies() == one_copy(RUN_ID)
    assert place.manifest() == one_row(RUN_ID)
    assert place.files() == []


@pytest.mark.parametrize(
    "mode",
    [
        "lost_reply",
        pytest.param("refuse", marks=pytest.mark.slow),
        pytest.param("blackhole", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("service", "module", "step"),
    [
        ("STORAGE", upload, "_create_once"),
        ("BIGQUERY", bronze_load, "_run_once"),
        ("BIGQUERY", bronze_load, "record_once"),
    ],
)
def test_a_service_lost_in_the_middle_of_a_step_is_taken_up_where_it_was(
    place: Place,
    proxies: dict[str, FaultProxy],
    monkeypatch: pytest.MonkeyPatch,
    service: str,
    module: Any,
    step: str,
    mode: str,
) -> None:
    whole: Callable[..., Any] = getattr(module, step)

    def broken(*arguments: Any, **options: Any) -> Any:
        proxies[service].mode = mode
        return whole(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, step, broken)
        assert place.run("--run-id", RUN_ID, "--cloud-timeout", "1") == 3
    proxies[service].mode = "ok"
    place.store.answers = {}
    assert place.run("--resume") == 0
    assert place.copies() == one_copy(RUN_ID)
    assert place.manifest() == one_row(RUN_ID)
    assert len(place.objects()) == 2
    assert place.files() == []


def test_waiting_runs_are_finished_oldest_first(
    place: Place, proxies: dict[str, FaultProxy]
) -> None:
    # the later run has the smaller id
    run_ids = ["b" * 8 + RUN_ID[8:], "a" * 8 + RUN_ID[8:]]
    proxies["STORAGE"].mode = "refuse"
    for run_id in run_ids:
        assert place.run("--run-id", run_id, "--cloud-timeout", "0.2") == 3
    proxies["STORAGE"].mode = "ok"
    assert place.run("--resume") == 0
    assert [each["run_id"] for each in place.summary] == [run_ids[0]] * 2 + [run_ids[1]] * 2
    assert place.copies() == one_copy(*run_ids)
    assert place.manifest() == one_row(*run_ids)


def test_a_resumption_leaves_what_another_process_works_on(
    place: Place, proxies: dict[str, FaultProxy], caplog: pytest.LogCaptureFixture
) -> None:
    proxies["BIGQUERY"].mode = "refuse"
    assert place.run("--run-id", RUN_ID, "--cloud-timeout", "1") == 3
    proxies["BIGQUERY"].mode = "ok"
    with sole_run(place.raw_dir, RUN_ID):
        assert place.run("--resume") == 3
    assert f"(pid {os.getpid()})" in caplog.text
    assert place.run("--resume") == 0
    assert place.copies() == one_copy(RUN_ID)


# without a disk


@pytest.mark.parametrize(("down", "is_kept"), [("STORAGE", False), ("BIGQUERY", True)])
def test_without_a_disk_the_message_says_what_is_kept_and_another_machine_finishes(
    place: Place,
    proxies: dict[str, FaultProxy],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    down: str,
    is_kept: bool,
) -> None:
    proxies[down].mode = "refuse"
    assert place.run("--run-id", RUN_ID, "--no-disk", "--cloud-timeout", "1") == 3
    proxies[down].mode = "ok"
    raw_dir = str(place.raw_dir)
    assert raw_dir not in caplog.text.replace(f"--raw-dir {shlex.quote(raw_dir)}", "")
    assert "--resume" not in caplog.text
    asked_again = "nothing is kept before it is uploaded: later, ask the API again with: python"
    assert (asked_again in caplog.text) != is_kept
    for name in place.objects():
        assert f"wait in gs://{place.bucket_name}/{name}; finish with: python" in caplog.text
    for entity in EXPECTED:
        assert f"--run-id {RUN_ID} --entities {entity} --bucket-name" in caplog.text
    # the disk is gone with the process
    place.raw_dir = tmp_path / "another"
    assert place.run("--run-id", RUN_ID, "--no-disk") == 0
    assert len(place.store.requests) == (2 if is_kept else 4)
    assert place.copies() == one_copy(RUN_ID)
    assert place.manifest() == one_row(RUN_ID)


# refused


def test_a_bucket_that_is_missing_fails_and_keeps_the_records(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.bucket_name += "-new"
    assert place.run("--run-id", RUN_ID) == 1
    assert "Cloud Storage refused" in caplog.text
    assert "when this is corrected, finish with: python batch_ingestion.py --resume" in caplog.text
    resources.make_bucket(place.gcp.clients, place.bucket_name)
    assert place.run("--resume") == 0
    assert place.copies() == one_copy(RUN_ID)
    assert len(place.store.requests) == 2


def test_a_failed_load_burns_its_job_id_and_the_next_generation_loads_once(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    client = place.gcp.clients.bigquery
    table = client.get_table(f"{place.gcp.project_id}.{place.dataset_id}.users_raw")
    client.delete_table(table)
    narrow = type(table)(table.reference, [each for each in table.schema if each.name != "_run_id"])
    client.create_table(narrow)
    assert place.run("--run-id", RUN_ID) == 1
    assert "BigQuery failed job" in caplog.text
    assert "No such field" in caplog.text
    client.delete_table(table)
    client.create_table(type(table)(table.reference, table.schema))
    assert place.run("--resume") == 0
    assert place.copies() == one_copy(RUN_ID)
    jobs = {row["entity"]: row["job_id"] for row in place.rows("ingestion_runs")}
    assert jobs["users"] == f"batch-{place.dataset_id}-users-{RUN_ID}-2"
    # and again: the burnt generation is passed by, the good one is taken up
    assert place.run("--run-id", RUN_ID) == 0
    assert place.copies() == one_copy(RUN_ID)
    assert place.manifest() == one_row(RUN_ID)


ALL_TABLES = ["products_raw", "users_raw", "ingestion_runs"]


def make_anew(place: Place, tables: list[str], rows: str = "false") -> None:
    """Drop tables and make them again, as they were but with some of their rows only."""
    client = place.gcp.clients.bigquery
    for name in (f"{place.gcp.project_id}.{place.dataset_id}.{table}" for table in tables):
        client.query(f"create or replace table `{name}_kept` as select * from `{name}`").result()
        table = client.get_table(name)
        client.delete_table(table)
        new = type(table)(table.reference, table.schema)
        new.time_partitioning = table.time_partitioning
        client.create_table(new)
        client.query(f"insert into `{name}` select * from `{name}_kept` where {rows}").result()


@pytest.mark.parametrize("tables", [ALL_TABLES, ALL_TABLES[:2], ALL_TABLES[2:]])
def test_tables_made_anew_are_filled_by_the_same_run_id_once(
    place: Place, tables: list[str]
) -> None:
    assert place.run("--run-id", RUN_ID) == 0
    # and once more, so that the second generation of a job is met too
    for _ in range(2):
        make_anew(place, tables)
        assert place.run_until("job-started:2", "--run-id", RUN_ID) == -9
        for _ in range(2):
            assert place.run("--run-id", RUN_ID) == 0
            assert place.copies() == one_copy(RUN_ID)
            assert place.manifest() == one_row(RUN_ID)
    assert len(place.objects()) == 2


def test_tables_put_back_with_their_rows_are_not_loaded_twice(place: Place) -> None:
    assert place.run("--run-id", RUN_ID) == 0
    make_anew(place, ALL_TABLES, rows="true")
    assert place.run("--run-id", RUN_ID) == 0
    assert place.copies() == one_copy(RUN_ID)
    assert place.manifest() == one_row(RUN_ID)


def test_an_object_that_is_there_already_counts_as_ours_only_with_our_checksum(
    place: Place, proxies: dict[str, FaultProxy], tmp_path: Path
) -> None:
    proxies["STORAGE"].mode = "refuse"
    assert place.run("--run-id", RUN_ID, "--cloud-timeout", "0.2") == 3
    proxies["STORAGE"].mode = "ok"
    landing = receipts.read_receipt(place.raw_dir, RUN_ID, "users")
    assert landing
    bucket = place.gcp.clients.storage.bucket(place.bucket_name)
    limits = Limits(60)
    arguments = (bucket, landing.data_path, place.raw_dir / landing.data_path, landing, limits)
    created = upload._create_once(*arguments)
    # the answer to the first attempt was lost; the second meets 412
    assert upload._create_once(*arguments).generation == created.generation
    (place.raw_dir / landing.data_path).write_bytes(b"another answer")
    kept = upload._create_once(*arguments)
    assert (kept.generation, kept.crc32c) == (created.generation, landing.crc32c)


def test_an_object_that_is_not_what_its_receipt_says_is_not_loaded(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    blob = place.gcp.clients.storage.bucket(place.bucket_name).blob(
        f"raw/users/date=2026-11-22/run_id={RUN_ID}/data.json"
    )
    blob.upload_from_string(b'{"_run_id":"somebody else"}')
    assert place.run("--run-id", RUN_ID, "--entities", "users") == 1
    assert "is not what a run has landed" in caplog.text
    assert place.rows("users_raw") == []
    assert len(place.objects()) == 1


def test_a_local_file_that_was_changed_is_not_loaded(
    place: Place, proxies: dict[str, FaultProxy], caplog: pytest.LogCaptureFixture
) -> None:
    proxies["STORAGE"].mode = "refuse"
    assert place.run("--entities", "users", "--cloud-timeout", "0.2") == 3
    proxies["STORAGE"].mode = "ok"
    (path,) = place.raw_dir.glob("users/date=*/run_id=*/data.json")
    path.write_bytes(path.read_bytes().replace(b"a@b.c", b"x@y.z"))
    assert place.run("--resume") == 1
    assert "is not what was landed" in caplog.text
    assert place.objects() == {}
    assert place.rows("users_raw") == []


def test_the_line_that_bigquery_complains_of_is_found(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_bytes(b'{"a":1}\n{"a":2}\n{"a":3}\n')
    message = "Error while reading data: JSON parsing error in row starting at position {}: ..."
    assert bronze_load.offending_line(file, message.format(0)) == 1
    assert bronze_load.offending_line(file, message.format(8)) == 2
    assert bronze_load.offending_line(file, message.format(23)) == 3
    assert bronze_load.offending_line(file, message.format(24)) is None
    assert bronze_load.offending_line(file, "something else") is None
    assert bronze_load.offending_line(tmp_path / "gone", message.format(0)) is None


def test_the_job_id_is_the_same_in_every_attempt_and_valid() -> None:
    landing = receipts.Landing(
        entity="users",
        run_id=RUN_ID,
        ingested_at="2026-11-22T10:00:00.000000Z",
        source_url="https://fakestoreapi.com/users",
        records=1,
        quarantined=0,
        bytes=1,
        crc32c="AAAAAA==",
        is_waiting=True,
        version=receipts.RECEIPT_VERSION,
    )
    later = msgspec.structs.replace(landing, ingested_at="2026-11-23T10:00:00.000000Z")
    assert bronze_load.job_id("bronze_data", landing) == bronze_load.job_id("bronze_data", later)
    assert bronze_load.job_id("bronze_data", landing) == f"batch-bronze_data-users-{RUN_ID}"


@pytest.mark.slow
def test_a_large_object_is_uploaded_resumably_and_loaded_once(place: Place) -> None:
    line = b'{"id":%d,"title":"t","price":1.5,"category":"c","description":"%b"}'
    many = b",".join(line % (number, b"x" * 300) for number in range(40_000))
    place.store.answers["/products"] = [answer(200, b"[%b]" % many)]
    for _ in range(2):
        assert place.run("--run-id", RUN_ID, "--entities", "products", "--cloud-timeout", "60") == 0
        sql = f"select count(*) as n from `{place.gcp.project_id}.{place.dataset_id}.products_raw`"
        assert next(iter(place.gcp.clients.bigquery.query(sql).result())).n == 40_000
    (blob,) = place.objects().values()
    assert blob.size > 8 << 20
