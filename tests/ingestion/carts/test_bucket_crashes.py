"""Pollers on one bucket, killed, asleep, cut off and beside each other: nothing lost or doubled."""

from __future__ import annotations

import json
import random

import pytest

from ingestion.carts.bucket_replica import BUCKET_STEPS
from ingestion.durable_files import STEPS
from tests.support.bucket_pollers import BucketPollers, Disturber
from tests.support.cart_histories import (
    KILLED,
    check_guarantees,
)

FILE_STEPS = [
    step
    for step in STEPS
    if step.partition("-")[0] in ("batch", "checkpoint", "state", "event", "published")
]
ALL_STEPS = [*FILE_STEPS, *BUCKET_STEPS]
# what a poll that changes something passes
POLL_STEPS = [step for step in BUCKET_STEPS if step != "letters-replayed"]
# on both sides of the commit, and of the moment from which a bucket knows what has left
TELLING_STEPS = ("state-uploaded", "head-committed", "round-recorded", "head-forgotten")

# none that a disturbed source gives
LAST_QUANTITY = 99


def check_all(pollers: BucketPollers, generations: int = 1) -> None:
    """Fail unless topic and bucket both tell the source's history, of so many generations."""
    for documents in (pollers.pubsub.documents, pollers.published()):
        assert len({json.loads(each)["generation"] for each in documents}) == generations
    check_guarantees(pollers.pubsub.documents, pollers.source)
    check_guarantees(pollers.published(), pollers.source, in_order=False)
    # what was written and never committed is gone, and so is what was committed and has left
    assert pollers.names("outbox/") == []


def end_with_a_change(pollers: BucketPollers) -> None:
    """Poll undisturbed; what a refused deletion or a sleeper left goes with the next change."""
    pollers.source.put(1, (LAST_QUANTITY, 9))
    pollers.poll_until_done()


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, marks=[] if step in TELLING_STEPS else pytest.mark.slow)
        for step in POLL_STEPS
    ],
)
def test_a_cold_start_killed_at_any_step_is_one_whole_snapshot_on_another_disk(
    pollers: BucketPollers, step: str
) -> None:
    assert pollers.poll("a", failpoint=step).end() == KILLED
    pollers.end_lease()
    pollers.source.put(1, (9, 9))
    del pollers.source.carts[2]
    pollers.poll_until_done()
    check_all(pollers)


def test_disturbed_at_random_they_lose_and_double_nothing(pollers: BucketPollers) -> None:
    Disturber(pollers, random.Random(1), ALL_STEPS).run(at_least=10)
    end_with_a_change(pollers)
    check_all(pollers)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(300, 310))
def test_disturbed_fifty_times_they_lose_and_double_nothing(
    pollers: BucketPollers, seed: int
) -> None:
    disturber = Disturber(pollers, random.Random(seed), ALL_STEPS)
    disturber.run(at_least=50)
    assert len(disturber.hit) >= len(ALL_STEPS) // 3
    assert disturber.stops >= 3
    end_with_a_change(pollers)
    check_all(pollers)
