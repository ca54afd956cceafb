"""A dataset that was filled from one API takes no records of another, unless it is told to."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator

import pytest

import batch_ingestion
from tests.support.batch_place import PRODUCTS, RUN_ID, USERS, Place
from tests.support.flaky_proxy import FaultProxy
from tests.support.scripted_http import ScriptedServer, answer, scripted_server


@pytest.fixture
def other_store() -> Iterator[ScriptedServer]:
    answers = {"/products": [answer(200, PRODUCTS)], "/users": [answer(200, USERS)]}
    with scripted_server(answers) as server:
        yield server


def loaded(place: Place, *tables: str) -> Counter[str]:
    """Count the runs that have rows in bronze, by the address that answered."""
    rows = [row for table in tables or ("products_raw",) for row in place.rows(table)]
    return Counter(url for url, _ in {(row["_source_url"], row["_run_id"]) for row in rows})


def test_another_api_is_refused_before_it_is_asked_until_it_is_accepted(
    place: Place, other_store: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    def run_other(*arguments: str) -> int:
        return batch_ingestion.main(place.arguments("--api-url", other_store.url, *arguments))

    assert place.run("--entities", "products") == 0
    # of one entity's API all others are to be
    for entity in ("products", "users"):
        assert run_other("--entities", entity) == 2
        assert f"{place.dataset_id} was filled from {place.store.url}, and" in caplog.text
        assert f"this run would read {other_store.url}: give --api-url" in caplog.text
    assert other_store.requests == []
    assert all("/products/" in name for name in place.objects())
    assert place.run("--api-url", f"{place.store.url}/") == 0
    assert run_other("--new-source") == 0
    assert run_other() == 0
    assert batch_ingestion.main(place.arguments()) == 2
    assert loaded(place, "products_raw", "users_raw") == {
        f"{place.store.url}/products": 2,
        f"{place.store.url}/users": 1,
        f"{other_store.url}/products": 2,
        f"{other_store.url}/users": 2,
    }


def test_what_was_read_while_bigquery_was_away_is_compared_before_it_is_loaded(
    place: Place, other_store: ScriptedServer, proxies: dict[str, FaultProxy]
) -> None:
    assert place.run("--entities", "products") == 0
    proxies["BIGQUERY"].mode = "refuse"
    other = ("--entities", "products", "--api-url", other_store.url, "--cloud-timeout", "0.5")
    assert place.run(*other) == 3
    proxies["BIGQUERY"].mode = "ok"
    assert place.run("--resume") == 2
    (each,) = place.summary
    assert each["status"] == "waiting"
    expected = f"{other_store.url}/products was read, and {place.dataset_id} was filled from "
    assert each["message"].startswith(f"{expected}{place.store.url}. The records wait in ")
    assert loaded(place) == {f"{place.store.url}/products": 1}
    command = shlex.split(each["message"].partition("finish with: ")[2])
    assert command[-1] == "--new-source"
    assert batch_ingestion.main(command[2:]) == 0
    assert loaded(place) == {f"{place.store.url}/products": 1, f"{other_store.url}/products": 1}
    assert place.files() == []


def test_what_was_landed_with_local_only_is_compared_when_it_is_loaded(
    place: Place, other_store: ScriptedServer
) -> None:
    assert place.run("--entities", "products") == 0
    landed = ("--entities", "products", "--run-id", RUN_ID)
    assert place.run(*landed, "--api-url", other_store.url, "--local-only") == 0
    assert place.run(*landed) == 2
    assert loaded(place) == {f"{place.store.url}/products": 1}


def test_what_was_read_before_the_change_is_the_history_of_the_api_of_then(
    place: Place, other_store: ScriptedServer, proxies: dict[str, FaultProxy]
) -> None:
    assert place.run("--entities", "products") == 0
    proxies["BIGQUERY"].mode = "refuse"
    assert place.run("--entities", "products", "--cloud-timeout", "0.5") == 3
    proxies["BIGQUERY"].mode = "ok"
    new = ("--entities", "products", "--api-url", other_store.url, "--new-source")
    assert place.run(*new) == 0
    assert place.run("--resume") == 0
    assert loaded(place) == {f"{place.store.url}/products": 2, f"{other_store.url}/products": 1}
