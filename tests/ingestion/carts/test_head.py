"""The head in the bucket: one winner, lost answers, sleepers, holders elsewhere."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from ingestion.bucket_errors import BucketRefusedError, BucketUnreachableError
from ingestion.carts.head import HEAD_NAME, Head, HeadLease, PendingBatch
from ingestion.carts.lease_errors import LeaseHeldError, LeaseLostError
from ingestion.objects import ObjectFolder, Patience, StoredObject
from local_gcp.resources import STATE_BUCKET_NAME
from local_gcp.servers import LocalGcp
from tests.support.faulty_storage import LOST_REPLY, LOST_REQUEST, FaultyStorage, faulty_storage

STATE = StoredObject("state/1.json", 7, "crc")
PENDING = PendingBatch("1.jsonl", 3, StoredObject("outbox/1.jsonl", 7, "crc"))


class Clock:
    """Time as a test says it is: what others read, and what this machine measures."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bucket(storage: LocalGcp) -> Iterator[FaultyStorage]:
    with faulty_storage(storage.ports["gcs"]) as faulty:
        yield faulty


@pytest.fixture
def folder_name() -> str:
    return f"{uuid.uuid4()}/"


class Signal:
    """Says how long is left: once it has come, every call has one attempt."""

    left = math.inf

    def __call__(self) -> float:
        return self.left


@pytest.fixture
def stop() -> Signal:
    return Signal()


@pytest.fixture
def objects(bucket: FaultyStorage, folder_name: str, stop: Signal) -> ObjectFolder:
    client = Client(
        project="local-project",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": bucket.url},
    )
    return ObjectFolder(client.bucket(STATE_BUCKET_NAME), folder_name, Patience(60.0, stop))


@pytest.fixture
def lease_of(objects: ObjectFolder, clock: Clock) -> Callable[[str], HeadLease]:
    return lambda holder: HeadLease(objects, holder, 60.0, clock.now, clock.monotonic)


def once(fault: object) -> Callable[[str, str], object]:
    """Return what sees this fault in the first write, and in nothing else."""
    writes = []

    def judge(method: str, address: str) -> object:
        if method == "POST":
            writes.append(address)
        return fault if method == "POST" and len(writes) == 1 else None

    return judge


def test_of_sixteen_that_take_it_at_once_one_wins(storage: LocalGcp, folder_name: str) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(16)

    def take(number: int) -> None:
        bucket = Client(
            project="local-project",
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": storage.environment["STORAGE_EMULATOR_HOST"]},
        ).bucket(STATE_BUCKET_NAME)
        lease = HeadLease(ObjectFolder(bucket, folder_name, Patience(60.0)), str(number), 60.0)
        barrier.wait()
        try:
            outcomes.append(f"{lease.take().epoch}")
        except LeaseHeldError:
            outcomes.append("held")

    threads = [threading.Thread(target=take, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["1", *["held"] * 15]


def test_what_is_swapped_in_is_what_the_next_holder_finds(
    lease_of: Callable[[str], HeadLease],
) -> None:
    first, second = lease_of("a"), lease_of("b")
    assert first.take() == Head(
        epoch=1,
        holder="a",
        nonce=first.head.nonce,
        lease_end=datetime(2026, 11, 22, 0, 1, tzinfo=UTC),
        lease_seconds=60.0,
    )
    first.swap(state=STATE, pending=(PENDING,), last_good_poll="2026")
    first.release(carts=7)
    assert second.look().holder == ""
    found = second.take()
    assert (found.epoch, found.state, found.pending, found.carts) == (2, STATE, (PENDING,), 7)


def test_a_holder_that_is_alive_is_left_alone(
    lease_of: Callable[[str], HeadLease], clock: Clock
) -> None:
    first, second = lease_of("a"), lease_of("b")
    first.take()
    clock.seconds = 59.0
    with pytest.raises(LeaseHeldError, match="a holds the state until 2026-11-22T00:01"):
        second.take()
    assert first.take().epoch == 1
    assert first.seconds_left() == 60.0


def test_who_sleeps_past_the_lease_is_fenced(
    lease_of: Callable[[str], HeadLease], clock: Clock
) -> None:
    sleeper, second = lease_of("a"), lease_of("b")
    sleeper.take()
    clock.seconds = 61.0
    assert sleeper.seconds_left() < 0
    second.take()
    with pytest.raises(LeaseLostError, match="b has taken"):
        sleeper.swap(state=STATE)
    with pytest.raises(LeaseLostError):
        sleeper.swap(state=STATE)
    with pytest.raises(LeaseLostError):
        sleeper.release()
    assert second.look() == second.head
    with pytest.raises(LeaseHeldError):
        sleeper.take()


def test_a_lease_of_a_clock_that_is_days_ahead_is_not_waited_for(
    lease_of: Callable[[str], HeadLease], clock: Clock
) -> None:
    ahead, second = lease_of("a"), lease_of("b")
    clock.seconds = 2 * 24 * 3600.0
    ahead.take()
    clock.seconds = 0.0
    assert second.take().epoch == 2
    with pytest.raises(LeaseLostError, match="b has taken"):
        ahead.swap(state=STATE)


def test_a_lease_of_a_clock_that_is_minutes_ahead_is_waited_for(
    lease_of: Callable[[str], HeadLease], clock: Clock
) -> None:
    ahead, second = lease_of("a"), lease_of("b")
    clock.seconds = 300.0
    ahead.take()
    clock.seconds = 0.0
    with pytest.raises(LeaseHeldError):
        second.take()


def test_who_wakes_before_anybody_came_goes_on(
    lease_of: Callable[[str], HeadLease], clock: Clock
) -> None:
    """Clocks decide when another takes over, never what is true."""
    lease = lease_of("a")
    lease.take()
    clock.seconds = 3600.0
    lease.swap(state=STATE)
    assert lease.look().state == STATE


@pytest.mark.parametrize("fault", [LOST_REPLY, LOST_REQUEST, 429, 500, 503])
def test_a_write_that_is_tried_again_counts_once(
    lease_of: Callable[[str], HeadLease], bucket: FaultyStorage, fault: object
) -> None:
    lease = lease_of("a")
    bucket.judge = once(fault)  # type: ignore[assignment]
    lease.take()
    bucket.judge = once(fault)  # type: ignore[assignment]
    lease.swap(state=STATE)
    lease.swap(dead_letters=1)
    assert lease.look() == lease.head
    assert (lease.head.epoch, lease.head.state, lease.head.dead_letters) == (1, STATE, 1)


@pytest.mark.parametrize("was_served", [True, False])
def test_after_a_swap_of_unknown_outcome_the_head_tells(
    lease_of: Callable[[str], HeadLease], bucket: FaultyStorage, stop: Signal, was_served: bool
) -> None:
    lease = lease_of("a")
    lease.take()
    stop.left = 60.0
    bucket.judge = lambda method, address: (
        (LOST_REPLY if was_served else LOST_REQUEST) if method == "POST" else 503
    )
    with pytest.raises(BucketUnreachableError):
        lease.swap(state=STATE)
    bucket.judge = lambda method, address: None
    assert lease.seconds_left() == 0
    found = lease.take()
    assert found.state == (STATE if was_served else None)
    assert found.epoch == 1


def test_a_412_or_403_that_nobody_s_write_explains_is_a_refusal(
    lease_of: Callable[[str], HeadLease], bucket: FaultyStorage
) -> None:
    lease = lease_of("a")
    lease.take()
    bucket.judge = lambda method, address: 403 if method == "POST" else None
    with pytest.raises(BucketRefusedError, match="as the test asks"):
        lease.swap(state=STATE)


def test_a_403_that_stands_for_a_412_is_read_again(
    lease_of: Callable[[str], HeadLease], bucket: FaultyStorage, clock: Clock
) -> None:
    """Who may create and not overwrite gets 403 for an object that is there."""
    sleeper, second = lease_of("a"), lease_of("b")
    sleeper.take()
    clock.seconds = 61.0
    second.take()
    bucket.judge = lambda method, address: 403 if method == "POST" else None
    with pytest.raises(LeaseLostError):
        sleeper.swap(state=STATE)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "is not a head"),
        (b"[]", "is not a head"),
        (b"", "is not a head"),
        (b'{"format":2,"epoch":1}', "has format 2, and this version"),
        (b'{"holder":"a","lease_end":"soon"}', "is not a head"),
        (b'{"holder":"a","lease_end":"2026-11-22T00:01:00"}', "is not a head"),
    ],
)
def test_a_head_that_cannot_be_read_is_no_cold_start(
    lease_of: Callable[[str], HeadLease], objects: ObjectFolder, content: bytes, says: str
) -> None:
    objects.replace(HEAD_NAME, content, 0)
    with pytest.raises(BucketRefusedError, match=says):
        lease_of("a").take()


def test_a_large_object_on_its_way_keeps_the_lease(
    lease_of: Callable[[str], HeadLease],
    objects: ObjectFolder,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ingestion.objects.PIECE_BYTES", 1 << 20)
    file = tmp_path / "state.json"
    file.write_bytes(bytes(9 << 20))
    lease = lease_of("a")
    lease.take()

    def between_pieces() -> None:
        clock.seconds += 25.0
        lease.renew_in_time()

    objects.between_pieces = between_pieces
    stored = objects.upload_once("state/1.json", file)
    assert clock.seconds > 200
    with pytest.raises(LeaseHeldError):
        lease_of("b").take()
    lease.swap(state=stored)
