"""Finishing what waits: what cannot be read fails by itself and leaves the others alone."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

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
