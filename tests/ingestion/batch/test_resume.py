"""Finishing what waits: what cannot be read fails by itself and leaves the others alone."""

from __future__ import annotations

import json
import shlex
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import batch_ingestion
from local_gcp import resources
from tests.support.batch_place import RUN_ID, Place, one_copy, one_row
from tests.support.flaky_proxy import FaultProxy


@pytest.fixture
def waiting(place: Place, proxies: dict[str, FaultProxy]) -> list[str]:
    """Three runs whose records wait."""
    run_ids = [str(uuid.uuid4()) for _ in range(3)]
    proxies["STORAGE"].mode = "refuse"
    for run_id in run_ids:
        assert place.run("--run-id", run_id, "--cloud-timeout", "0.2") == 3
    proxies["STORAGE"].mode = "ok"
    return run_ids


def empty(receipt: Path, data: Path) -> Path:
    receipt.write_bytes(b"")
    return receipt


def with_unknown_member(receipt: Path, data: Path) -> Path:
    receipt.write_bytes(receipt.read_bytes()[:-1] + b',"member":1}')
    return receipt


def of_another_run(receipt: Path, data: Path) -> Path:
    receipt.write_bytes(receipt.read_bytes().replace(receipt.parent.name.encode(), RUN_ID.encode()))
    return receipt


def unreadable(receipt: Path, data: Path) -> Path:
    data.unlink()
    data.mkdir()
    return data


@pytest.mark.parametrize("spoil", [empty, with_unknown_member, of_another_run, unreadable])
def test_what_cannot_be_read_is_named_and_the_others_are_loaded(
    place: Place, waiting: list[str], spoil: Callable[[Path, Path], Path]
) -> None:
    spoilt = waiting[1]
    receipt = place.raw_dir / ".runs" / spoilt / "users.json"
    (data,) = place.raw_dir.glob(f"users/date=*/run_id={spoilt}/data.json")
    named = spoil(receipt, data)
    assert place.run("--resume") == 1
    failed = [each for each in place.summary if each["status"] != "done"]
    assert [(each["entity"], each["run_id"]) for each in failed] == [("users", spoilt)]
    assert str(named) in failed[0]["message"]
    assert len(place.summary) == 6
    expected = one_copy(*waiting)
    expected["users"] -= one_copy(spoilt)["users"]
    assert place.copies() == expected
    assert place.manifest() == one_row(*waiting) - one_row(spoilt) + _products_of(spoilt)
    # asked for by its run id, it is the same
    assert place.run("--resume", "--run-id", spoilt) == 1
    assert place.run("--resume", "--entities", "products") == 0


def _products_of(run_id: str) -> Counter[tuple[str, str, str]]:
    return Counter({(run_id, "products", "loaded"): 1})


# waiting for another destination


@pytest.fixture
def other(place: Place) -> Place:
    """Another dataset, whose runs land in the same raw folder."""
    dataset_id = f"{place.dataset_id}_other"
    resources.make_bronze(place.gcp.clients, dataset_id)
    return replace(place, dataset_id=dataset_id, summary=[])


def finishing_command(place: Place) -> list[str]:
    """Return the command that the message of what still waits ends with."""
    messages = {each["message"] for each in place.summary if each["status"] == "waiting"}
    (command,) = {message.partition("finish with: ")[2] for message in messages}
    program, script, *arguments = shlex.split(command)
    assert (program, script) == ("python", "batch_ingestion.py")
    return arguments


def test_what_waits_for_another_dataset_is_named_and_the_rest_is_finished(
    place: Place, other: Place, waiting: list[str], proxies: dict[str, FaultProxy]
) -> None:
    run_id = str(uuid.uuid4())
    proxies["STORAGE"].mode = "refuse"
    assert other.run("--run-id", run_id, "--cloud-timeout", "0.2") == 3
    proxies["STORAGE"].mode = "ok"
    assert place.run("--resume") == 2
    assert Counter(each["status"] for each in place.summary) == {"done": 6, "waiting": 2}
    here, there = (f"{each.gcp.project_id}.{each.dataset_id}" for each in (place, other))
    for each in place.summary[6:]:
        assert each["run_id"] == run_id
        assert f"wait for gs://{place.bucket_name} and {there}, and" in each["message"]
        assert f"this command goes to gs://{place.bucket_name} and {here}." in each["message"]
    assert place.copies() == one_copy(*waiting)
    # nothing else waits here
    assert place.run("--resume") == 2
    assert batch_ingestion.main(finishing_command(place)) == 0
    assert place.copies() == one_copy(*waiting)
    assert other.copies() == one_copy(run_id)
    assert other.manifest() == one_row(run_id)
    assert place.files() == []


def test_a_run_id_that_waits_for_another_dataset_is_not_loaded_into_this_one(
    place: Place, other: Place, proxies: dict[str, FaultProxy]
) -> None:
    proxies["BIGQUERY"].mode = "refuse"
    assert place.run("--run-id", RUN_ID, "--cloud-timeout", "0.5") == 3
    proxies["BIGQUERY"].mode = "ok"
    asked = len(place.store.requests)
    assert other.run("--run-id", RUN_ID) == 2
    assert len(place.store.requests) == asked
    assert other.manifest() == Counter()
    assert batch_ingestion.main(finishing_command(other)) == 0
    assert place.copies() == one_copy(RUN_ID)
    # what has been loaded lies in the bucket, for any dataset
    assert other.run("--run-id", RUN_ID) == 0
    assert other.copies() == one_copy(RUN_ID)
    assert len(place.store.requests) == asked


@pytest.mark.parametrize("member", ["project_id", "bucket_name", "dataset_id"])
def test_project_bucket_and_dataset_say_where_a_run_goes(
    place: Place, waiting: list[str], member: str
) -> None:
    receipts = sorted(place.raw_dir.glob(".runs/*/*.json"))
    for receipt in receipts:
        text = json.loads(receipt.read_text())
        text["destination"][member] = "somewhere-else"
        receipt.write_text(json.dumps(text))
    assert place.run("--resume") == 2
    assert place.objects() == {}
    assert sorted(place.raw_dir.glob(".runs/*/*.json")) == receipts


def test_a_receipt_of_before_that_names_no_destination_is_finished(
    place: Place, waiting: list[str]
) -> None:
    for receipt in place.raw_dir.glob(".runs/*/*.json"):
        text = json.loads(receipt.read_text())
        del text["destination"]
        receipt.write_text(json.dumps(text))
    assert place.run("--run-id", waiting[0]) == 0
    assert place.run("--resume") == 0
    assert place.copies() == one_copy(*waiting)
    assert place.files() == []
