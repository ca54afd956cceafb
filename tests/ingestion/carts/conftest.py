"""A shop of five carts, a Pub/Sub that remembers, and pollers on one state bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from local_gcp.servers import LocalGcp
from tests.support.bucket_pollers import BucketPollers, bucket_pollers
from tests.support.cart_histories import CartsSource, carts_source
from tests.support.recording_pubsub import RecordingPubSub


@pytest.fixture
def source() -> Iterator[CartsSource]:
    with carts_source() as started:
        for cart_id in range(1, 6):
            started.put(cart_id, (cart_id, 1), (1, 2))
        yield started


@pytest.fixture
def pubsub() -> Iterator[RecordingPubSub]:
    server = RecordingPubSub()
    yield server
    server.stop()


@pytest.fixture
def pollers(
    tmp_path: Path, storage: LocalGcp, source: CartsSource, pubsub: RecordingPubSub
) -> Iterator[BucketPollers]:
    with bucket_pollers(tmp_path, storage, source, pubsub) as made:
        yield made
