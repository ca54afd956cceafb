"""What every test may ask for: a Fake Store of its own, and one local GCP per session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local_fake_store import FakeStore, running_fake_store


@pytest.fixture
def fake_store() -> Iterator[FakeStore]:
    """A fresh Fake Store with the sample data, in a thread: fast, and no Google Cloud needed."""
    with running_fake_store() as store:
        yield store
