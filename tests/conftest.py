"""What every test may ask for: a Fake Store of its own, and one local GCP per session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local_fake_store import FakeStore, running_fake_store
from local_gcp import LocalGcp


@pytest.fixture
def fake_store() -> Iterator[FakeStore]:
    """A fresh Fake Store with the sample data, in a thread: fast, and no Google Cloud needed."""
    with running_fake_store() as store:
        yield store


@pytest.fixture(scope="session")
def gcp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalGcp]:
    """The session's local GCP; each test uses a bucket, a dataset, a topic of its own in it."""
    with LocalGcp(tmp_path_factory.mktemp("local_gcp")) as running:
        yield running


@pytest.fixture(autouse=True)
def _environment_of_gcp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the local GCP's environment for a test that uses it, and for no other."""
    if "gcp" in request.fixturenames:
        for name, value in request.getfixturevalue("gcp").environment.items():
            monkeypatch.setenv(name, value)
