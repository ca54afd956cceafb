"""What the tests of the batch stage on the local GCP share."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ingestion import source as api_source
from ingestion.batch import run as batch_run
from ingestion.batch.google_calls import Limits
from local_gcp import resources
from tests.support.batch_place import PRODUCTS, SERVICES, USERS, Place
from tests.support.flaky_proxy import FaultProxy
from tests.support.scripted_http import ScriptedServer, answer, scripted_server


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    quick = functools.partial(api_source.fetch, backoff=lambda state: 0.0)
    monkeypatch.setattr(batch_run, "fetch", quick)
    answers = {"/products": [answer(200, PRODUCTS)], "/users": [answer(200, USERS)]}
    with scripted_server(answers) as server:
        yield server


@pytest.fixture
def place(
    gcp: Any,
    store: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Place:
    name = f"batch-{uuid.uuid4().hex[:12]}"
    resources.make_bucket(gcp.clients, name)
    resources.make_bronze(gcp.clients, name.replace("-", "_"))
    for variable, value in gcp.environment.items():
        monkeypatch.setenv(variable, value)
    return Place(
        gcp, store, name, name.replace("-", "_"), tmp_path / "raw", {**gcp.environment}, capsys, []
    )


@pytest.fixture
def proxies(
    gcp: Any, place: Place, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, FaultProxy]]:
    """Put a fault proxy between the script and each of Google's services.

    A test's --cloud-timeout is for what its proxy has taken away; what answers is waited for.
    """
    made: dict[str, FaultProxy] = {}

    def be_patient(service: str) -> None:
        name = f"of_{service.lower()}"
        bounds = getattr(Limits, name)

        def patient(limits: Limits, *size: int) -> dict[str, Any]:
            if made[service].mode != "ok":
                return bounds(limits, *size)
            found = bounds(Limits(60), *size)
            may_try_again = found["retry"]._predicate
            # what is in hand when the service goes is not waited for
            found["retry"] = found["retry"].with_predicate(
                lambda error: made[service].mode == "ok" and may_try_again(error)
            )
            return found

        monkeypatch.setattr(Limits, name, patient)

    for service in SERVICES:
        variable = f"{service}_EMULATOR_HOST"
        made[service] = FaultProxy(urlsplit(gcp.environment[variable]).port)
        place.environment[variable] = f"http://127.0.0.1:{made[service].port}"
        monkeypatch.setenv(variable, place.environment[variable])
        be_patient(service)
    yield made
    for proxy in made.values():
        proxy.close()
