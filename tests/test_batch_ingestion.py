"""The batch stage on the local disk: what lands is whole and exact, a bad answer leaves nothing."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import batch_ingestion as batch
from ingestion import source as api_source
from ingestion.batch import entities, summary
from ingestion.batch import run as batch_run
from ingestion.batch.run_lock import sole_run
from ingestion.project import PROJECT_FOLDER
from local_gcp.shop_data import SAMPLE_DATA
from tests.support.local_gcp_process import until
from tests.support.scripted_http import (
    Respond,
    ScriptedServer,
    answer,
    fall_silent,
    hang,
    reset,
    scripted_server,
    stop_halfway,
)
from tests.support.shared import FAKESTORE

RUN_ID = "11111111-1111-4111-8111-111111111111"

PRODUCTS = [
    b'{"id":%d,"title":"Caf\xc3\xa9 mug ","price":%s,"category":"kitchen","rating":{"rate":3.9}}'
    % (number, price)
    for number, price in enumerate([b"22", b"109.950", b"7.50", b"1e2"], start=1)
]
USERS = [
    b'{"address":{"city":"kilcoole"},"id":%d,"email":"a@b.c","username":"u","password":"sesame",'
    b'"name":{"firstname":"j"},"__v":0}' % number
    for number in range(1, 4)
]
USERS_REDACTED = [user.replace(b'"password":"sesame",', b"") for user in USERS]


def body(records: list[bytes]) -> bytes:
    return b"[%b]" % b",".join(records)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A store whose faults are met without the pauses between the attempts."""
    quick = functools.partial(api_source.fetch, backoff=lambda state: 0.0)
    monkeypatch.setattr(batch_run, "fetch", quick)
    answers = {"/products": [answer(200, body(PRODUCTS))], "/users": [answer(200, body(USERS))]}
    with scripted_server(answers) as server:
        yield server


@pytest.fixture
def run(
    store: ScriptedServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Callable[..., int]:
    """Run the script in this process with --local-only; return its exit code."""
    caplog.set_level(logging.INFO)

    def run_main(*arguments: str) -> int:
        where = ["--local-only", "--api-url", store.url, "--raw-dir", str(tmp_path / "raw")]
        return batch.main([*where, *arguments])

    return run_main


@pytest.fixture
def hurry(store: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Wait a moment only for the answers of one path; a busy machine gives the others late."""
    whole = batch_run.fetch

    def wait_a_moment(path: str) -> None:
        def fetch(session: Any, url: str, read: Any, **options: Any) -> Any:
            if url.endswith(path):
                options["timeout"] = (30, 0.3)
            return whole(session, url, read, **options)

        monkeypatch.setattr(batch_run, "fetch", fetch)

    return wait_a_moment


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def landed(folder: Path, entity: str) -> Path:
    (path,) = folder.glob(f"raw/{entity}/date=*/run_id=*/data.json")
    return path


def records_of(path: Path) -> list[bytes]:
    """Return the bytes of the member `record` of each line."""
    return [line.split(b'"record": ', 1)[1][:-1] for line in path.read_bytes().splitlines()]


# what lands


def test_each_entity_lands_as_one_file_of_enveloped_lines(
    run: Callable[..., int], store: ScriptedServer, tmp_path: Path
) -> None:
    assert run("--run-id", RUN_ID) == 0
    for entity, records in (("products", PRODUCTS), ("users", USERS_REDACTED)):
        path = landed(tmp_path, entity)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        ingested_at = lines[0]["_ingested_at"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", ingested_at)
        assert path == (
            tmp_path
            / "raw"
            / entity
            / f"date={ingested_at[:10]}"
            / f"run_id={RUN_ID}"
            / "data.json"
        )
        assert lines == [
            {
                "_run_id": RUN_ID,
                "_ingested_at": ingested_at,
                "_source_url": f"{store.url}/{entity}",
                "record": json.loads(record),
            }
            for record in records
        ]
        assert records_of(path) == records


def test_the_real_answers_land_byte_for_byte_but_for_the_password(
    run: Callable[..., int], store: ScriptedServer, tmp_path: Path
) -> None:
    if not (FAKESTORE / "products.json").is_file():
        pytest.skip("../shared/fakestore/products.json is missing: the real answers are not tested")
    real = {name: (FAKESTORE / f"{name}.json").read_bytes() for name in entities.ENTITIES}
    store.answers = {f"/{name}": [answer(200, given)] for name, given in real.items()}
    assert run("--entities", "products", "users", "carts") == 0
    assert len(records_of(landed(tmp_path, "carts"))) == 7
    for name, given in real.items():
        expected = b",".join(records_of(landed(tmp_path, name)))
        assert expected == re.sub(rb'"password":"[^"]*",', b"", given)[1:-1]
    assert "é".encode() in real["products"] or re.search(rb"[\x80-\xff]", real["products"])


def test_white_space_between_tokens_stays_within_the_line(
    run: Callable[..., int], store: ScriptedServer, tmp_path: Path
) -> None:
    indented = json.dumps([json.loads(user) for user in USERS], indent=2).replace("\n", "\r\n")
    store.answers["/users"] = [answer(200, indented.encode())]
    assert run("--entities", "users") == 0
    path = landed(tmp_path, "users")
    assert [json.loads(record) for record in records_of(path)] == [
        json.loads(user) for user in USERS_REDACTED
    ]
    assert b"\r" not in path.read_bytes()


def test_a_body_that_stops_halfway_begins_again_and_no_record_stands_twice(
    run: Callable[..., int], store: ScriptedServer, tmp_path: Path
) -> None:
    many = [b'{"id":%d,"email":"a","username":"b"}' % number for number in range(30_000)]
    whole = body(many)

    def stop(handler: Any) -> None:
        answer(200, whole[: len(whole) // 2], Content_Length=str(len(whole)))(handler)
        handler.close_connection = True

    store.answers["/users"] = [stop, answer(200, whole)]
    assert run("--entities", "users") == 0
    assert records_of(landed(tmp_path, "users")) == many
    assert store.asked("/users") == 2


def test_only_the_entities_named_are_asked_for(
    run: Callable[..., int], store: ScriptedServer, tmp_path: Path
) -> None:
    assert run("--entities", "users") == 0
    assert store.asked("/products") == 0
    assert not (tmp_path / "raw" / "products").exists()


def test_another_entity_is_another_line(
    run: Callable[..., int],
    store: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = frozenset({"card"})
    coupon = entities.Entity("/c", {"code": int, "value": float}, key="code", redacted=secrets)
    monkeypatch.setitem(entities.ENTITIES, "coupons", coupon)
    store.answers["/c"] = [answer(200, b'[{"code":1,"card":"x","value":2.50}]')]
    assert run("--entities", "coupons") == 0
    assert records_of(landed(tmp_path, "coupons")) == [b'{"code":1,"value":2.50}']


# answers that are no data

SECRET = b'"password":"sesame"'
TWICE = body([USERS[0], USERS[1], USERS[0]]).replace(b"email", b"price")
FAULTS: list[tuple[str, Respond, int, str]] = [
    ("503", answer(503), 3, "Service Unavailable (3 attempts). Nothing of it is kept: mend"),
    ("522", answer(522), 3, "answered 522"),
    ("429", answer(429, Retry_After="0"), 3, "answered 429"),
    ("reset", reset, 3, "could not be reached"),
    ("silence", fall_silent, 3, "stopped in the middle"),
    ("stopped body", stop_halfway, 3, "stopped in the middle"),
    ("cut short", answer(200, b'[{"id":1,%b},{"id' % SECRET), 3, "a list that is cut short"),
    ("403", answer(403, b"<html>%b</html>" % SECRET), 1, "addresses of data centres"),
    ("404", answer(404), 1, "answered 404"),
    ("400", answer(400, b"{%b}" % SECRET), 1, "answered 400"),
    ("object", answer(200, b"{%b}" % SECRET), 1, "answered a JSON object instead"),
    ("null", answer(200, b"null"), 1, "answered null instead"),
    ("empty body", answer(200, b""), 1, "answered an empty body instead"),
    ("html", answer(200, b"<!DOCTYPE html>"), 1, "answered an HTML page instead"),
    ("empty list", answer(200, b"[]"), 1, "answered an empty list"),
    ("not json", answer(200, b'[{"id":1,%b}}]' % SECRET), 1, "not valid JSON"),
    ("all bad", answer(200, b'[{"id":"x",%b},7]' % SECRET), 1, "answered 2 bad records of 2"),
    ("304", answer(304, b""), 1, "answered 304"),
]


@pytest.mark.parametrize(
    ("respond", "requests", "sentence"),
    [pytest.param(*fault[1:], id=fault[0]) for fault in FAULTS],
)
def test_a_bad_answer_fails_its_entity_and_leaves_no_file(
    run: Callable[..., int],
    store: ScriptedServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    respond: Respond,
    requests: int,
    sentence: str,
) -> None:
    store.answers["/users"] = [respond]
    # on a busy machine, too, the answers begin within this
    patience = ("--api-timeout", "2") if respond is fall_silent else ()
    assert run("--json", "--run-id", RUN_ID, *patience) == 1
    assert store.asked("/users") == requests
    products, users = json.loads(capsys.readouterr().out)["entities"]
    assert users["status"] == "failed"
    assert users["message"].startswith(f"{store.url}/users ")
    assert sentence in users["message"]
    assert sentence in caplog.text
    # the other entity is as good as ever, and nothing of this one is on the disk
    assert products["status"] == "done"
    path = landed(tmp_path, "products").relative_to(tmp_path)
    assert files_of(tmp_path) == sorted([str(path), f"raw/.runs/{RUN_ID}/products.json"])
    assert "sesame" not in caplog.text + json.dumps(users)


# the same for every fault of the Fake Store: (kind, options, requests that it must see)
STORE_FAULTS: list[tuple[str, dict[str, Any], int]] = [
    ("status", {"status": 503}, 3),
    ("status", {"status": 524}, 3),
    ("status", {"status": 404}, 1),
    ("html403", {}, 1),
    ("object400", {}, 1),
    ("null", {}, 1),
    ("empty", {}, 1),
    ("empty_list", {}, 1),
    ("html200", {}, 1),
    ("duplicate_id", {}, 1),
    ("truncated", {}, 3),
    ("truncated", {"silent": True}, 3),
    ("slow", {"seconds": 1}, 3),
    ("hang", {}, 3),
    ("reset", {}, 3),
    ("retry_after", {"seconds": 0}, 3),
    ("retry_after", {"seconds": 0, "form": "date"}, 3),
]


@pytest.mark.parametrize(("failing", "other"), [("products", "users"), ("users", "products")])
@pytest.mark.parametrize(("kind", "options", "requests"), STORE_FAULTS)
def test_each_fault_of_the_fake_store_is_asked_about_the_right_number_of_times(
    run: Callable[..., int],
    hurry: Callable[[str], None],
    fake_store: Any,
    tmp_path: Path,
    failing: str,
    other: str,
    kind: str,
    options: dict[str, Any],
    requests: int,
) -> None:
    fake_store.set_fault(f"/{failing}", kind, **options)
    if kind in ("slow", "hang") or "silent" in options:
        hurry(f"/{failing}")
    assert run("--api-url", fake_store.url) == 1
    # the last one may be given up before the store has seen it
    until(lambda: len(fake_store.requests) >= requests + 1)
    paths = [request["path"] for request in fake_store.requests]
    assert (paths.count(f"/{failing}"), paths.count(f"/{other}")) == (requests, 1)
    assert not (tmp_path / "raw" / failing).exists()
    assert not (tmp_path / "raw" / "quarantine").exists()
    sample = json.loads((SAMPLE_DATA / f"{other}.json").read_text())
    assert len(records_of(landed(tmp_path, other))) == len(sample)


@pytest.mark.parametrize("kind", ["status", "truncated", "reset", "hang", "retry_after"])
def test_a_fault_that_passes_costs_attempts_and_nothing_else(
    run: Callable[..., int], fake_store: Any, tmp_path: Path, kind: str
) -> None:
    fake_store.set_fault(
        "/users", kind, times=2, **({"seconds": 0} if kind == "retry_after" else {})
    )
    # of the two that are not answered; a busy machine answers the third in time
    patience = ("--api-timeout", "2") if kind == "hang" else ()
    assert run("--api-url", fake_store.url, "--entities", "users", *patience) == 0
    assert len(fake_store.requests) == 3
    ids = [json.loads(record)["id"] for record in records_of(landed(tmp_path, "users"))]
    assert len(ids) == len(set(ids)) > 0


@pytest.mark.parametrize("entity", entities.DEFAULT_ENTITIES)
def test_an_id_that_stands_twice_fails_the_entity(
    run: Callable[..., int], store: ScriptedServer, tmp_path: Path, entity: str
) -> None:
    records = PRODUCTS if entity == "products" else USERS
    store.answers[f"/{entity}"] = [answer(200, body([*records, records[0]]))]
    assert run("--entities", entity) == 1
    assert store.asked(f"/{entity}") == 1
    assert files_of(tmp_path) == []


def test_a_failure_of_the_disk_fails_the_entity_with_its_reason(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "users").write_text("a file where a folder should be")
    assert run() == 1
    assert "users: " in caplog.text
    assert len(records_of(landed(tmp_path, "products"))) == len(PRODUCTS)


@pytest.mark.parametrize("blocked", [".", ".runs", f".runs/{RUN_ID}", f".runs/{RUN_ID}.lock/x"])
def test_a_raw_folder_that_cannot_be_used_is_named_in_one_sentence(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture, blocked: str
) -> None:
    raw_dir = tmp_path / "raw"
    (raw_dir / blocked).parent.mkdir(parents=True, exist_ok=True)
    (raw_dir / blocked).write_text("a file where a folder should be, or the other way round")
    before = files_of(tmp_path)
    assert run("--run-id", RUN_ID) == 1
    assert f"{raw_dir} cannot be written (" in caplog.text
    assert "give another --raw-dir" in caplog.text
    assert files_of(tmp_path) == before


def test_a_full_disk_fails_the_entity_and_is_left_as_it_was(
    store: ScriptedServer, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    many = [b'{"id":%d,"title":"t","price":1,"category":"c"}' % number for number in range(2_000)]
    store.answers["/products"] = [answer(200, body(many))]
    raw_dir = tmp_path / "raw"
    limited = run_process(
        store.url,
        raw_dir,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert limited.returncode == 1
    products, users = json.loads(limited.stdout)["entities"]
    assert f"{raw_dir} cannot be written (File too large)" in products["message"]
    assert b"Traceback" not in limited.stderr
    assert users["status"] == "done"
    run_id = users["run_id"]
    assert [name for name in files_of(raw_dir) if not name.startswith("users/")] == [
        f".runs/{run_id}/users.json"
    ]


# quarantine


def test_a_bad_record_goes_to_quarantine_and_the_others_land(
    run: Callable[..., int],
    store: ScriptedServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = [b'{"id":%d,"email":"a","username":"b"}' % number for number in range(10, 29)]
    bad = b'{"id":"x","email":"a",\n"deep":[{"password":"sesame","b":"\\ud83d"}],"c":"\xff"}'
    store.answers["/users"] = [answer(200, body([*good[:7], bad, *good[7:]]))]
    assert run("--entities", "users", "--run-id", RUN_ID, "--json") == 0
    summary = json.loads(capsys.readouterr().out)["entities"][0]
    assert (summary["records"], summary["quarantined"]) == (19, 1)
    path = landed(tmp_path, "users")
    assert records_of(path) == good
    (line,) = (
        (tmp_path / "raw/quarantine" / path.relative_to(tmp_path / "raw")).read_bytes().splitlines()
    )
    refused = json.loads(line)
    assert refused.pop("record") == {
        "id": "x",
        "email": "a",
        "deep": [{"b": "\ud83d"}],
        "c": "\ufffd",
    }
    assert refused == {
        "_run_id": RUN_ID,
        "_ingested_at": json.loads(path.read_text().splitlines()[0])["_ingested_at"],
        "_source_url": f"{store.url}/users",
        "reason": refused["reason"],
        "position": 7,
    }
    assert "Unicode" in refused["reason"]


def test_an_answer_without_bad_records_makes_no_quarantine(
    run: Callable[..., int], tmp_path: Path
) -> None:
    assert run() == 0
    assert not (tmp_path / "raw" / "quarantine").exists()


def test_more_than_a_tenth_of_bad_records_fails_and_leaves_no_file(
    run: Callable[..., int], store: ScriptedServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [b'{"id":7}', b'{"id":8}', b'{"id":9}']
    store.answers["/products"] = [answer(200, body([*PRODUCTS, *bad]))]
    assert run("--entities", "products") == 1
    assert "3 bad records of 7, the first at position 4: Object missing required" in caplog.text
    assert files_of(tmp_path) == []


# passwords


def test_a_password_is_nowhere_at_whatever_depth_it_stands(
    run: Callable[..., int],
    store: ScriptedServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    spellings = [
        b'"password":"sesame"',
        b'"pass\\u0077ord" : "sesame"',
        b'"login":{"x":[{"password":["sesame",{"a":"sesame"}]}]}',
        b'"password":null,"password":"sesame"',
    ]
    users = [
        b'{"id":%d,%b,"email":"a","username":"b"}' % (number, spellings[number % 4])
        for number in range(20)
    ]
    products = [product[:-1] + b',"password":"sesame"}' for product in PRODUCTS]
    refused = b'{"id":null,"deep":{"password":"sesame"}}'
    store.answers["/users"] = [answer(200, body([*users, refused, b'{"password":{"p":"sesame"}}']))]
    store.answers["/products"] = [answer(200, body(products))]
    assert run() == 0
    said = capsys.readouterr()
    everything = (caplog.text + said.out + said.err).encode()
    everything += b"".join((tmp_path / name).read_bytes() for name in files_of(tmp_path))
    assert b"sesame" not in everything
    assert records_of(landed(tmp_path, "products")) == PRODUCTS
    assert len(records_of(landed(tmp_path, "users"))) == 20


# the same run again


def test_a_second_run_of_the_same_id_changes_nothing_and_does_not_ask(
    run: Callable[..., int],
    store: ScriptedServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--run-id", RUN_ID, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    before = {name: (tmp_path / name).read_bytes() for name in files_of(tmp_path)}
    store.answers = {}
    assert run("--run-id", RUN_ID, "--json") == 0
    second = json.loads(capsys.readouterr().out)
    assert {name: (tmp_path / name).read_bytes() for name in files_of(tmp_path)} == before
    assert len(store.requests) == 2
    for outcome in (*first["entities"], *second["entities"]):
        outcome.pop("seconds")
    assert first == second


def test_a_rerun_fetches_only_what_had_failed(
    run: Callable[..., int], store: ScriptedServer, tmp_path: Path
) -> None:
    store.answers["/users"] = [answer(404), answer(200, body(USERS))]
    assert run("--run-id", RUN_ID) == 1
    assert run("--run-id", RUN_ID) == 0
    assert (store.asked("/products"), store.asked("/users")) == (1, 2)
    assert records_of(landed(tmp_path, "users")) == USERS_REDACTED


def test_runs_without_an_id_are_runs_of_their_own(run: Callable[..., int], tmp_path: Path) -> None:
    assert run() == 0
    assert run() == 0
    assert len(list(tmp_path.glob("raw/users/date=*/run_id=*/data.json"))) == 2


def test_a_file_without_its_receipt_is_not_overwritten(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "raw/users/date=2020-01-01" / f"run_id={RUN_ID}" / "data.json"
    path.parent.mkdir(parents=True)
    path.write_text("somebody's")
    assert run("--run-id", RUN_ID, "--entities", "users") == 1
    assert path.read_text() == "somebody's"
    assert "give another --run-id" in caplog.text


@pytest.mark.parametrize("receipt", [b"{", b'{"version":1}'])
def test_a_receipt_that_cannot_be_read_fails_the_entity(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture, receipt: bytes
) -> None:
    path = tmp_path / "raw" / ".runs" / RUN_ID / "users.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(receipt)
    assert run("--run-id", RUN_ID) == 1
    assert f"{path} is not a receipt" in caplog.text
    assert path.read_bytes() == receipt


def test_a_second_process_on_the_same_run_stops_with_exit_2(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sole_run(tmp_path / "raw", RUN_ID):
        assert run("--run-id", RUN_ID) == 2
        assert f"(pid {os.getpid()})" in caplog.text
        assert run("--run-id", str(uuid.uuid4())) == 0


# killed at each step

STEPS = ["data-written", "receipt-replaced", "data-replaced:2"]
MORE_STEPS = ["receipt-torn", "receipt-written", "receipt-replaced:2", "data-replaced"]


def run_process(
    store_url: str, raw_dir: Path, *arguments: str, failpoint: str = "", **options: Any
) -> Any:
    command = [sys.executable, "batch_ingestion.py", "--local-only", "--api-url", store_url]
    return subprocess.run(
        [*command, "--raw-dir", str(raw_dir), "--json", *arguments],
        cwd=PROJECT_FOLDER,
        env={**os.environ, "FAILPOINT": failpoint},
        capture_output=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    "step", [*STEPS, *(pytest.param(step, marks=pytest.mark.slow) for step in MORE_STEPS)]
)
def test_a_run_killed_anywhere_and_run_again_lands_one_copy(
    store: ScriptedServer, tmp_path: Path, step: str
) -> None:
    many = [b'{"id":%d,"title":"t","price":1,"category":"c"}' % number for number in range(39)]
    store.answers["/products"] = [answer(200, body([*many, b'{"id":0}']))]
    raw_dir = tmp_path / "raw"
    killed = run_process(store.url, raw_dir, "--run-id", RUN_ID, failpoint=step)
    assert killed.returncode == -9
    for data in raw_dir.glob("products/date=*/run_id=*/data.json"):
        assert records_of(data) == many
    again = run_process(store.url, raw_dir, "--run-id", RUN_ID)
    assert again.returncode == 0, again.stderr
    assert records_of(landed(tmp_path, "products")) == many
    assert records_of(landed(tmp_path, "quarantine/products")) == [b'{"id":0}']
    assert records_of(landed(tmp_path, "users")) == USERS_REDACTED
    assert [name for name in files_of(raw_dir) if not name.endswith(".json")] == []


def test_what_a_killed_run_left_before_its_receipt_is_swept_by_the_next(
    store: ScriptedServer, tmp_path: Path
) -> None:
    raw_dir = tmp_path / "raw"
    assert run_process(store.url, raw_dir, failpoint="data-written").returncode == -9
    assert files_of(raw_dir)
    assert run_process(store.url, raw_dir, "--run-id", RUN_ID).returncode == 0
    assert {name.split("run_id=")[-1].split("/")[-2] for name in files_of(raw_dir)} == {RUN_ID}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_at_once_and_says_how_to_finish(
    store: ScriptedServer, tmp_path: Path, number: int
) -> None:
    store.answers["/users"] = [hang, answer(200, body(USERS))]
    command = [sys.executable, "batch_ingestion.py", "--local-only", "--api-url", store.url]
    with subprocess.Popen(
        [*command, "--raw-dir", str(tmp_path / "raw"), "--run-id", RUN_ID],
        cwd=PROJECT_FOLDER,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        # both entities have been asked for, and the products have landed
        seen = ""
        while "finished entity=products" not in seen:
            seen += process.stderr.readline()
            assert process.poll() is None
        until(lambda: store.asked("/users"))
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert f"Finish with the same command and --run-id {RUN_ID}" in said
    assert "Traceback" not in said
    assert run_process(store.url, tmp_path / "raw", "--run-id", RUN_ID).returncode == 0
    assert store.asked("/products") == 1


# command line


def test_the_log_goes_to_stderr_and_the_table_to_stdout(
    store: ScriptedServer, tmp_path: Path
) -> None:
    command = [sys.executable, "batch_ingestion.py", "--local-only", "--api-url", store.url]
    done = subprocess.run(
        [*command, "--raw-dir", str(tmp_path / "raw"), "--run-id", RUN_ID],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "finished entity=users status=done records=3 quarantined=0" in done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    size = landed(tmp_path, "users").stat().st_size
    assert ["users", "done", "3", "0", f"{size:,}"] in [row[:5] for row in rows]
    assert str(landed(tmp_path, "users")) in done.stdout
    assert RUN_ID in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--project-id", "your-project-id"], "GCP_PROJECT_ID is still the placeholder"),
        (
            ["--project-id", "p", "--bucket-name", "your-project-id-raw-data-2026-xyz"],
            "GCS_BUCKET_NAME is still",
        ),
        (
            ["--project-id", "p", "--bucket-name", "gs://raw"],
            "'gs://raw' is no name of a bucket: give --bucket-name",
        ),
    ],
)
def test_wrong_configuration_ends_with_exit_2_and_what_to_edit(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    assert batch.main(arguments) == 2
    assert sentence in caplog.text
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--run-id", "../../etc"], "any text becomes one as 'name:TEXT'"),
        (["--entities", "coupons"], "invalid choice: 'coupons'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--resume", "--local-only"], "does not go with --local-only"),
        (["--resume", "--replay-quarantine"], "not allowed with argument --resume"),
        (["--resume", "--no-disk"], "nothing waits for --resume: give the --run-id"),
    ],
)
def test_wrong_usage_ends_with_exit_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        batch.main(arguments)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_run_id_is_a_uuid_or_is_derived_from_a_name() -> None:
    def run_id_of(text: str) -> str | None:
        parsed: str | None = batch.build_parser().parse_args(["--run-id", text]).run_id
        return parsed

    assert run_id_of(RUN_ID.upper()) == run_id_of(RUN_ID.replace("-", "")) == RUN_ID
    # what a scheduler can give again: the same for each retry, on each machine
    assert run_id_of("name:2026-11-22") == "a30d5879-dd61-5aef-a12d-ad70f0690a7c"
    assert run_id_of("name:2026-11-23") != run_id_of("name:2026-11-22")
    assert run_id_of("") is None  # an empty value counts as none


@pytest.mark.parametrize("text", ["2026-11-22", "name:", "name: ", RUN_ID[:-1]])
def test_another_run_id_is_refused_with_the_two_forms(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        batch.main(["--run-id", text])
    assert stopped.value.code == 2
    assert f"'{text}' is no UUID; any text becomes one as 'name:TEXT'" in capsys.readouterr().err


def test_the_raw_folder_lies_in_the_project_or_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value, expected in (
        (None, PROJECT_FOLDER / "raw"),
        ("", PROJECT_FOLDER / "raw"),
        ("landed", PROJECT_FOLDER / "landed"),
        (str(tmp_path), tmp_path),
    ):
        monkeypatch.delenv("RAW_DIR", raising=False)
        if value is not None:
            monkeypatch.setenv("RAW_DIR", value)
        assert batch.build_parser().parse_args([]).raw_dir == expected
        assert batch.build_parser().parse_args(["--raw-dir", ""]).raw_dir == expected


@pytest.mark.parametrize("variable", ["CLOUD_RUN_JOB", "K_SERVICE"])
def test_cloud_run_has_no_disk(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not batch.build_parser().parse_args([]).no_disk
    monkeypatch.setenv(variable, "batch")
    assert batch.build_parser().parse_args([]).no_disk


def test_the_help_shows_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        batch.main(["--help"])
    shown = capsys.readouterr().out
    assert "batch_ingestion.py --resume" in shown
    assert "  3  Google Cloud was not to be reached" in shown


def test_the_exit_code_tells_the_worst_outcome() -> None:
    outcome = summary.Outcome("users", RUN_ID, "done")
    waiting, failed = replace(outcome, status="waiting"), replace(outcome, status="failed")
    assert summary.exit_code([outcome]) == 0
    assert summary.exit_code([outcome, waiting]) == 3
    assert summary.exit_code([waiting, failed, outcome]) == 1


def test_the_command_that_finishes_the_job_carries_the_flags_of_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT_FOLDER)
    arguments = ["--raw-dir", "my raw", "--bucket-name", "b", "--entities", "users"]
    parsed = batch.build_parser().parse_args(arguments)
    assert shlex.split(batch.commands(parsed).resume) == [
        *("python", "batch_ingestion.py", "--resume", "--bucket-name", "b"),
        *("--raw-dir", str(PROJECT_FOLDER / "my raw")),
    ]
    # from elsewhere the script is named with its folder
    monkeypatch.chdir(tmp_path)
    plain = batch.commands(batch.build_parser().parse_args([]))
    script = str(PROJECT_FOLDER / "batch_ingestion.py")
    assert shlex.split(plain.resume) == ["python", script, "--resume"]


# a large answer


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_peak_memory_does_not_grow_with_the_answer(tmp_path: Path) -> None:
    def products(count: int) -> Respond:
        filler = b"x" * 400
        line = b'{"id":%d,"title":"t","price":1.5,"category":"c","description":"%b"}'
        return answer(200, body([line % (number, filler) for number in range(count)]))

    peaks = []
    for count in (100_000, 1_000_000):
        # not ru_maxrss, which begins with what the parent, this process, holds
        program = (
            "import sys, batch_ingestion; code = batch_ingestion.main(sys.argv[1:]);"
            "status = open('/proc/self/status').read();"
            "print(code, status.split('VmHWM:')[1].split()[0])"
        )
        with scripted_server({"/products": [products(count)]}) as server:
            done = subprocess.run(
                [
                    *(sys.executable, "-c", program, "--local-only", "--entities", "products"),
                    *("--api-url", server.url, "--raw-dir", str(tmp_path / str(count)), "--json"),
                ],
                cwd=PROJECT_FOLDER,
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
        code, peak = done.stdout.splitlines()[-1].split()
        assert code == "0"
        peaks.append(int(peak))
    assert peaks[1] < 150_000
    assert peaks[1] < 1.2 * peaks[0]
