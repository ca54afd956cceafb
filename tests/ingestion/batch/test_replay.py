"""Records that were refused and are valid by now: loaded once, and nothing is gone for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingestion.batch import entities
from ingestion.batch.replay import RefusedLine, read_line, replay_run_id, valid_lines
from tests.support.batch_place import RUN_ID, Place, parsed
from tests.support.flaky_proxy import FaultProxy
from tests.support.scripted_http import answer

GOOD = [b'{"id":%d,"email":"a","username":"b"}' % number for number in range(40)]
# a user without a name, and half a surrogate pair: the first is taken one day, the second not
BAD = [b'{"id":101,"email":"a"}', b'{"id":102,"email":"\\ud83d","username":"b"}']


@pytest.fixture
def take_users_without_a_name(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the checks of today be wider than those of the day on which the records came."""

    def widen() -> None:
        users = entities.ENTITIES["users"]
        required = {"id": users.required["id"], "email": str}
        monkeypatch.setitem(entities.ENTITIES, "users", replace(users, required=required))

    return widen


def run_with_bad_records(place: Place, *arguments: str) -> None:
    place.store.answers["/users"] = [answer(200, b"[%b]" % b",".join([*GOOD, *BAD]))]
    assert place.run("--run-id", RUN_ID, "--entities", "users", *arguments) == 0


def test_a_record_that_is_valid_by_now_is_loaded_once_as_an_addition(
    place: Place, take_users_without_a_name: Callable[[], None]
) -> None:
    run_with_bad_records(place)
    assert place.run("--replay-quarantine") == 0
    assert [(each["records"], each["quarantined"]) for each in place.summary] == [(0, 2)]
    take_users_without_a_name()
    for _ in range(2):
        assert place.run("--replay-quarantine") == 0
        assert [(each["records"], each["quarantined"]) for each in place.summary] == [(1, 1)]
        rows = [row for row in place.rows("users_raw") if row["_run_id"] != RUN_ID]
        run_id = replay_run_id(RUN_ID, "users", [40])
        original = next(row for row in place.rows("users_raw") if row["_run_id"] == RUN_ID)
        assert [{**row, "record": parsed(row["record"])} for row in rows] == [
            {
                "record": {"id": 101, "email": "a"},
                "_run_id": run_id,
                "_ingested_at": original["_ingested_at"],
                "_source_url": original["_source_url"],
            }
        ]
        runs = {row["run_id"]: row for row in place.rows("ingestion_runs")}
        assert len(runs) == len(place.rows("ingestion_runs")) == 2
        assert runs[RUN_ID]["replayed_run_id"] is None
        assert runs[run_id]["replayed_run_id"] == RUN_ID
        # silver believes of a run with a quarantine that it shows no absence
        assert (runs[run_id]["records"], runs[run_id]["quarantined"]) == (1, 2)
    assert place.files() == []
    assert len(place.store.requests) == 1


def test_a_replay_that_cannot_be_loaded_waits_and_is_resumed(
    place: Place, proxies: dict[str, FaultProxy], take_users_without_a_name: Callable[[], None]
) -> None:
    run_with_bad_records(place)
    take_users_without_a_name()
    proxies["BIGQUERY"].mode = "refuse"
    assert place.run("--replay-quarantine", "--cloud-timeout", "0.5") == 3
    proxies["STORAGE"].mode = "refuse"
    assert place.run("--replay-quarantine", "--cloud-timeout", "0.5") == 3
    assert "The quarantine is as it was" in place.summary[0]["message"]
    for proxy in proxies.values():
        proxy.mode = "ok"
    assert place.run("--resume") == 0
    assert len(place.rows("users_raw")) == 41
    assert place.run("--replay-quarantine") == 0
    assert len(place.rows("users_raw")) == 41
    assert len(place.rows("ingestion_runs")) == 2


def test_with_local_only_the_quarantine_of_the_raw_folder_is_replayed(
    place: Place, take_users_without_a_name: Callable[[], None]
) -> None:
    run_with_bad_records(place, "--local-only")
    take_users_without_a_name()
    assert place.run("--replay-quarantine", "--local-only", "--run-id", RUN_ID) == 0
    run_id = replay_run_id(RUN_ID, "users", [40])
    (file,) = place.raw_dir.glob(f"users/date=*/run_id={run_id}/data.json")
    (line,) = file.read_text().splitlines()
    assert json.loads(line)["record"] == {"id": 101, "email": "a"}
    # loaded afterwards, the run and its addition are what they would have been at once
    assert place.run("--run-id", RUN_ID, "--entities", "users") == 0
    assert place.run("--replay-quarantine") == 0
    assert len(place.rows("users_raw")) == 41


def test_an_attempt_that_got_no_further_keeps_its_quarantine_and_takes_nobodys_place(
    place: Place, tmp_path: Path, take_users_without_a_name: Callable[[], None]
) -> None:
    arguments = ("--run-id", RUN_ID, "--entities", "users", "--no-disk")
    place.store.answers["/users"] = [
        answer(200, b"[%b]" % b",".join([*GOOD, b'{"id":%d,"email":"a"}' % number]))
        for number in (201, 202)
    ]
    assert place.run_until("quarantine-uploaded", *arguments) == -9
    # the disk is gone with the process; the API answers something else by now
    place.raw_dir = tmp_path / "another"
    assert place.run(*arguments) == 0
    kept = [
        json.loads(blob.download_as_bytes())["record"]["id"]
        for name, blob in place.objects().items()
        if name.startswith("raw/quarantine/users/")
    ]
    assert sorted(kept) == [201, 202]
    take_users_without_a_name()
    for _ in range(2):
        assert place.run("--replay-quarantine") == 0
        assert sorted(each["records"] for each in place.summary) == [0, 1]
        (message,) = [each["message"] for each in place.summary if each["message"]]
        assert f"Run {RUN_ID} holds those of a later one" in message
        loaded = {parsed(row["record"])["id"] for row in place.rows("users_raw")}
        assert loaded == {*range(40), 202}
        assert len(place.rows("users_raw")) == 41
    assert place.manifest().total() == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"_run_id":"../x"}\n'])
def test_a_quarantine_file_that_cannot_be_read_is_named(place: Place, content: bytes) -> None:
    run_with_bad_records(place, "--local-only")
    (file,) = place.raw_dir.glob("quarantine/users/date=*/run_id=*/data.json")
    file.write_bytes(content)
    assert place.run("--replay-quarantine", "--local-only") == 1
    assert str(file) in place.summary[0]["message"]
    assert len(list(place.raw_dir.glob("users/date=*/run_id=*/data.json"))) == 1


def line(position: int, record: bytes) -> RefusedLine:
    return RefusedLine(
        run_id=RUN_ID,
        ingested_at="2026-11-22T10:00:00.000000Z",
        source_url="http://x",
        position=position,
        record=msgspec.Raw(record),
    )


def test_what_was_not_utf_8_stays_in_quarantine() -> None:
    twice = GOOD[2] + b"," + GOOD[3]
    records: list[Any] = [GOOD[0], twice, GOOD[1].replace(b'"b"', '"\ufffd"'.encode()), *BAD]
    lines = [line(position, record) for position, record in enumerate(records)]
    assert [each.position for each in valid_lines(lines, entities.ENTITIES["users"])] == [0]


def test_the_run_id_of_a_replay_says_which_records_it_holds() -> None:
    assert replay_run_id(RUN_ID, "users", [2, 1]) == replay_run_id(RUN_ID, "users", [1, 2])
    others = [
        replay_run_id(RUN_ID, "users", [1]),
        replay_run_id(RUN_ID, "users", [12]),
        replay_run_id(RUN_ID, "products", [1, 2]),
        replay_run_id(RUN_ID.replace("2", "3"), "users", [1, 2]),
    ]
    assert len({replay_run_id(RUN_ID, "users", [1, 2]), *others}) == 5


def test_a_line_of_quarantine_is_read_as_it_is_written() -> None:
    text = b'{"_run_id": "%b", "_ingested_at": "2026-11-22T10:00:00.000000Z", ' % RUN_ID.encode()
    text += b'"_source_url": "u", "reason": "r", "position": 3, '
    text += b'"record": {"id": 1.50,"e":"\\ud83d"}}\n'
    read = read_line(text.strip())
    assert (read.position, bytes(read.record)) == (3, b'{"id": 1.50,"e":"\\ud83d"}')
