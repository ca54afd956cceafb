"""The state in a bucket, as its users see it: any disk will do, and none is needed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

import near_realtime_ingestion_2 as stage
from ingestion.carts.event_batch import format_time
from tests.support.bucket_pollers import BucketPollers
from tests.support.cart_histories import (
    KILLED,
    Ended,
    check_guarantees,
    published,
    run_here,
)
from tests.support.faulty_storage import HANGS, LOST_REPLY, Fault
from tests.support.local_gcp_process import until
from tests.support.recording_pubsub import RecordingPubSub


def head_of(pollers: BucketPollers) -> dict[str, Any]:
    blob = pollers.bucket.blob("near_realtime/head.json")
    return dict(json.loads(blob.download_as_bytes(timeout=10)))


def calls(pollers: BucketPollers) -> list[str]:
    """Return what was asked of the bucket so far, shortened, and forget it."""
    asked = [
        f"{method} {address.partition('?')[0].rpartition('/')[2].partition('%2F')[2]}".strip()
        for method, address in (each.split(" ", 1) for each in pollers.storage.requests)
    ]
    pollers.storage.requests.clear()
    return asked


def test_the_next_disk_goes_on_where_the_last_one_was_lost(pollers: BucketPollers) -> None:
    pollers.poll("a")
    pollers.source.put(1, (9, 9))
    changed = pollers.poll("b").summary()
    assert (changed["modified"], changed["published"], changed["carts"]) == (1, 1, 5)
    assert published(pollers.folder / "a") + published(pollers.folder / "b") == pollers.published()
    assert (pollers.folder / "b" / "state" / "carts_state.json").exists()
    check_guarantees(pollers.pubsub.documents, pollers.source)
    kinds = sorted({name.split("/")[1] for name in pollers.names()})
    assert kinds == ["head.json", "published", "state"]
    assert len(pollers.names("state/")) == 1


def test_an_unchanged_poll_of_a_fresh_disk_asks_three_times_and_writes_no_state(
    pollers: BucketPollers,
) -> None:
    pollers.poll("a")
    before = head_of(pollers)
    calls(pollers)
    assert pollers.poll("b").summary()["carts"] == 5
    assert calls(pollers) == ["GET head.json", "POST", "POST"]
    after = head_of(pollers)
    assert after["state"] == before["state"]
    assert after["last_good_poll"] > before["last_good_poll"]
    assert not (pollers.folder / "b" / "state" / "carts_state.json").exists()


def test_a_changed_poll_writes_its_state_once(pollers: BucketPollers) -> None:
    pollers.poll("a")
    pollers.source.put(1, (9, 9))
    calls(pollers)
    pollers.poll("a")
    # head taken, batch, state, commit, what has left, head without the batch, head released
    assert calls(pollers).count("POST") == 7


def test_a_state_that_lies_here_is_not_fetched_again(pollers: BucketPollers) -> None:
    pollers.poll("a")
    for name, fetched in (("a", 0), ("b", 1)):
        pollers.source.put(1, (9, 9), user=fetched)
        calls(pollers)
        pollers.poll(name)
        assert sum(call.startswith("GET state") for call in calls(pollers)) == fetched


def test_an_answer_of_any_swap_may_be_lost(pollers: BucketPollers) -> None:
    for number in range(1, 8):
        writes: list[str] = []

        def judge(
            method: str, address: str, writes: list[str] = writes, number: int = number
        ) -> Fault:
            if method == "POST":
                writes.append(address)
            return LOST_REPLY if method == "POST" and len(writes) == number else None

        pollers.source.put(1, (number, 9))
        pollers.storage.judge = judge
        assert pollers.poll("a").end() == 0
        assert len(writes) >= number
    check_guarantees(pollers.pubsub.documents, pollers.source)
    assert len(pollers.pubsub.documents) == 5 + 6


def test_what_could_not_be_deleted_goes_with_the_next_change(pollers: BucketPollers) -> None:
    """By another process, though the one that failed to delete it has released the head."""
    pollers.storage.judge = lambda method, _: 412 if method == "DELETE" else None
    for value in (8, 9):
        pollers.source.put(1, (value, 9))
        assert pollers.poll("a").end() == 0
    assert pollers.names("outbox/")
    assert len(pollers.names("state/")) == 2
    pollers.storage.judge = lambda *_: None
    pollers.source.put(1, (7, 9))
    assert pollers.poll("b").end() == 0
    assert pollers.names("outbox/") == []
    assert len(pollers.names("state/")) == 1


def test_a_live_holder_elsewhere_is_no_failure(pollers: BucketPollers) -> None:
    holder = pollers.start("a", "--poll-interval", "600")
    until(lambda: "polled poll=1" in holder.log())
    pollers.source.put(1, (9, 9))
    overlap = pollers.poll("b")
    assert overlap.end() == 0
    assert f"pid {holder.pid}" in overlap.log()
    assert overlap.summary()["published"] == 0
    waiting = pollers.start("c", "--poll-interval", "0.2")
    until(lambda: "stood back poll=1" in waiting.log())
    os.kill(holder.pid, signal.SIGTERM)
    assert holder.end() == 0
    # released, so that nobody waits for the end of the lease
    until(lambda: "modified=1" in waiting.log())
    os.kill(waiting.pid, signal.SIGTERM)
    assert waiting.end() == 0
    assert "holder" not in head_of(pollers)
    check_guarantees(pollers.pubsub.documents, pollers.source)


@pytest.mark.parametrize(
    ("written_before", "published_by_sleeper"),
    [
        pytest.param(["batch", "state"], 0, id="commit"),
        pytest.param(["batch", "state", "what has left"], 1, id="head without the batch"),
    ],
)
def test_who_sleeps_past_its_lease_is_fenced_at_its_next_swap(
    pollers: BucketPollers, written_before: list[str], published_by_sleeper: int
) -> None:
    """Stopped with the swap on its way, which arrives when another has come and gone."""
    pollers.poll("a")
    pollers.source.put(1, (9, 9))
    created: list[str] = []
    stopped: list[int] = []

    def judge(method: str, address: str) -> Fault:
        if method != "POST" or stopped:
            return None
        if "ifGenerationMatch=0" in address:
            created.append(address)
        elif len(created) == len(written_before):
            stopped.append(sleeper.pid)
            os.kill(sleeper.pid, signal.SIGSTOP)
            pollers.end_lease()
            pollers.source.put(1, (8, 8))
            assert pollers.poll("b").end() == 0
            os.kill(sleeper.pid, signal.SIGCONT)
        return None

    pollers.storage.judge = judge
    sleeper = pollers.start("a", "--once")
    assert sleeper.end() == 0
    assert "fenced poll=1: " in sleeper.log()
    assert len(pollers.pubsub.documents) == 5 + 1 + published_by_sleeper
    check_guarantees(pollers.pubsub.documents, pollers.source)
    assert pollers.poll("a").end() == 0


def test_a_signal_leaves_ten_seconds_though_the_bucket_hangs(pollers: BucketPollers) -> None:
    """Of the minutes that it would be waited for; a busy machine needs its time, too."""
    loop = pollers.start("a", "--poll-interval", "600")
    until(lambda: "polled poll=1" in loop.log())
    pollers.storage.judge = lambda method, address: HANGS
    os.kill(loop.pid, signal.SIGTERM)
    assert loop.end(60) == 0
    assert "the head was not released" in loop.log()


def test_dead_letters_lie_in_the_bucket_and_any_disk_replays_them(pollers: BucketPollers) -> None:
    pollers.pubsub.judge = lambda message: (
        grpc.StatusCode.INVALID_ARGUMENT if b'"cart_1"' in message.data else None
    )
    rejected = pollers.poll("a")
    assert rejected.end() == 3
    assert f"gs://{pollers.bucket.name}/near_realtime/dead_letter" in rejected.log()
    assert "--state-bucket" in rejected.log()
    assert len(pollers.names("dead_letter/")) == 1
    # as long as they lie there
    assert pollers.poll("b").end() == 3
    assert status(pollers).summary["dead_letters"] == 1
    pollers.pubsub.judge = lambda message: None
    replayed = pollers.start("c", "--replay-dead-letters")
    assert replayed.end() == 0, replayed.log()
    assert pollers.names("dead_letter/") == []
    assert pollers.poll("d").end() == 0
    check_guarantees(pollers.pubsub.documents, pollers.source, in_order=False)
    check_guarantees(pollers.published(), pollers.source, in_order=False)


def test_what_is_rejected_again_stays_a_dead_letter(pollers: BucketPollers) -> None:
    pollers.pubsub.judge = lambda message: (
        grpc.StatusCode.INVALID_ARGUMENT if b'"cart_1"' in message.data else None
    )
    pollers.poll("a")
    replayed = pollers.start("c", "--replay-dead-letters")
    assert replayed.end() == 3, replayed.log()
    assert len(pollers.names("dead_letter/")) == 1
    assert pollers.poll("b").summary()["dead_letters"] == 1


def test_a_quarantined_record_lies_in_the_bucket_once(pollers: BucketPollers) -> None:
    for cart_id in range(10, 30):
        pollers.source.put(cart_id, (1, 1))
    pollers.poll("a")
    pollers.source.carts[1]["userId"] = "nobody"
    pollers.poll("b")
    pollers.source.put(2, (5, 5))
    pollers.poll("c")
    (name,) = pollers.names("quarantine/")
    (line,) = pollers.bucket.blob(name).download_as_bytes(timeout=10).splitlines()
    assert json.loads(line)["record"]["userId"] == "nobody"


def test_what_has_left_before_a_kill_is_not_published_again_by_another_disk(
    pollers: BucketPollers,
) -> None:
    pollers.poll("a", failpoint="round-recorded")
    pollers.end_lease()
    pollers.poll_until_done()
    assert len(pollers.pubsub.documents) == 5
    # and what only this disk knows to have left is told to the bucket
    pollers.source.put(1, (9, 9))
    pollers.poll("a", failpoint="published-appended")
    pollers.end_lease()
    pollers.poll("a")
    assert len(pollers.pubsub.documents) == 6
    check_guarantees(pollers.published(), pollers.source)


def test_folder_and_bucket_tell_the_same_history(
    pollers: BucketPollers, tmp_path: Path, pubsub: RecordingPubSub
) -> None:
    """The same polls of the same answers: the same events but for times and generation."""

    def told(documents: list[bytes]) -> list[Any]:
        events = [json.loads(each) for each in documents]
        for event in events:
            for name in ("id", "time", "generation"):
                del event[name]
            for name in ("observed_after", "observed_before"):
                event["data"][name] = event["data"][name] is None
        return events

    dice = random.Random(5)
    on_disk = ("--once", "--accept-deletes", "--project-id", "local-project", "--topic", "disk")
    for number in range(8):
        pollers.source.mutate(dice)
        run_here(tmp_path / "disk", pollers.source.url, *on_disk, env=pubsub.environment)
        pollers.poll(f"{number % 3}")
    by_topic = [published(tmp_path / "disk"), pollers.published()]
    assert told(by_topic[0]) == told(by_topic[1])
    assert len(by_topic[0]) > 10


def refused(pollers: BucketPollers, name: str, *flags: str, bucket: str = "") -> Ended:
    environment = {
        **pollers.pubsub.environment,
        "STORAGE_EMULATOR_HOST": pollers.storage.url,
    }
    flags = ("--once", "--project-id", "local-project", *flags)
    flags = (*flags, *(("--state-bucket", bucket) if bucket else ()))
    return run_here(pollers.folder / name, pollers.source.url, *flags, env=environment)


def test_a_state_of_the_disk_and_one_of_the_bucket_do_not_meet(pollers: BucketPollers) -> None:
    assert refused(pollers, "disk").code == 0
    to_bucket = refused(pollers, "disk", bucket=pollers.bucket.name)
    assert to_bucket.code == 2
    assert "hold a state that is no working copy of gs://" in to_bucket.log
    assert pollers.names() == []
    pollers.poll("copy")
    to_disk = refused(pollers, "copy")
    assert to_disk.code == 2
    assert "gs://" in to_disk.log
    assert len(pollers.published()) == 5


@pytest.mark.parametrize(
    ("flags", "bucket"),
    [
        ([], "of-the-environment"),
        (["--state-bucket", "given"], "given"),
        (["--state-file", "x", "--state-bucket", "given"], "given"),
        # what the command line says wins over the environment
        (["--local-only"], None),
        (["--state-file", "x"], None),
        (["--events-dir", "x"], None),
    ],
)
def test_the_bucket_is_that_of_the_command_line_or_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], bucket: str | None
) -> None:
    monkeypatch.setenv("STATE_BUCKET_NAME", "of-the-environment")
    assert stage.parse_arguments(flags).state_bucket == bucket
    monkeypatch.setenv("STATE_BUCKET_NAME", "")
    assert stage.parse_arguments(flags).state_bucket == (None if bucket != "given" else bucket)


def test_local_only_and_a_state_bucket_exclude_each_other() -> None:
    with pytest.raises(SystemExit, match="2"):
        stage.parse_arguments(["--local-only", "--state-bucket", "given"])


@pytest.mark.parametrize("flags", [[], ["--status"], ["--dry-run"]])
def test_a_bucket_that_is_not_there_is_one_sentence(
    pollers: BucketPollers, flags: list[str]
) -> None:
    ended = refused(pollers, "disk", *flags, bucket="nowhere-at-all")
    assert ended.code == 1
    assert "The bucket nowhere-at-all does not exist: make it with" in ended.log


@pytest.mark.parametrize("name", ["gs://local-state", "Local State", "-x-"])
@pytest.mark.parametrize("flags", [[], ["--status"]])
def test_what_is_no_name_of_a_bucket_is_one_sentence(
    pollers: BucketPollers, flags: list[str], name: str
) -> None:
    ended = refused(pollers, "disk", *flags, f"--state-bucket={name}")
    assert ended.code == 2
    assert f"'{name}' is no name of a bucket: give --state-bucket" in ended.log
    assert pollers.storage.requests == []


def test_another_source_is_refused_with_a_bucket_of_its_own_as_the_way_out(
    pollers: BucketPollers,
) -> None:
    pollers.poll("a")
    pollers.source.url += "/v2"
    ended = refused(pollers, "b", bucket=pollers.bucket.name)
    assert ended.code == 2
    assert "give this run a --state-bucket of its own, or begin a new snapshot" in ended.log


def status(pollers: BucketPollers, *flags: str, bucket: bool = True) -> Ended:
    name = pollers.bucket.name if bucket else ""
    return refused(pollers, "disk", "--status", *flags, bucket=name)


def test_status_says_what_is_so_in_the_bucket(pollers: BucketPollers) -> None:
    nothing = status(pollers)
    assert (nothing.code, nothing.summary["generation"]) == (0, None)
    pollers.pubsub.judge = lambda message: grpc.StatusCode.UNAVAILABLE
    pollers.poll("a", "--publish-timeout", "0.5")
    told = status(pollers)
    assert told.code == 3
    assert told.summary == {
        "source": f"{pollers.source.url}/carts",
        "destination": told.summary["destination"],
        "generation": head_of(pollers)["checkpoint"]["generation"],
        "last_good_poll": head_of(pollers)["last_good_poll"],
        "carts": 5,
        "waiting": 5,
        "dead_letters": 0,
        "held_deletions": 0,
        "holder": None,
    }
    assert told.summary["destination"].startswith("projects/local-project/topics/carts-events")
    assert not (pollers.folder / "disk").exists()


def test_status_says_what_is_so_on_the_disk(pollers: BucketPollers) -> None:
    refused(pollers, "disk")
    told = status(pollers, bucket=False)
    assert (told.code, told.summary["carts"], told.summary["holder"]) == (0, 5, None)
    loop = pollers.start("disk", "--poll-interval", "30", bucket="")
    until(lambda: "polled poll=1" in loop.log())
    assert status(pollers, bucket=False).summary["holder"] == f"pid {loop.pid}"


def test_status_of_a_working_copy_sends_to_the_bucket(pollers: BucketPollers) -> None:
    pollers.poll("disk")
    told = status(pollers, bucket=False)
    assert told.code == 2
    assert f"is a working copy of gs://{pollers.bucket.name}/near_realtime/" in told.log


def test_a_dry_run_shows_what_differs_from_the_bucket_and_writes_nothing(
    pollers: BucketPollers, capsys: pytest.CaptureFixture[str]
) -> None:
    pollers.poll("a")
    pollers.source.put(1, (9, 9))
    calls(pollers)
    shown = refused(pollers, "disk", "--dry-run", bucket=pollers.bucket.name)
    assert shown.code == 0
    assert {call.split()[0] for call in calls(pollers)} == {"GET"}
    assert len(shown.summary["changes"]) == 1
    assert not (pollers.folder / "disk").exists()


def test_a_lost_head_costs_a_second_snapshot_that_sorts_later(pollers: BucketPollers) -> None:
    pollers.poll("a")
    pollers.bucket.blob("near_realtime/head.json").delete(timeout=10)
    del pollers.source.carts[2]
    assert pollers.poll("b").summary()["created"] == 4
    first, second = sorted({json.loads(each)["generation"] for each in pollers.published()})
    assert first < second
    check_guarantees(pollers.pubsub.documents, pollers.source)


def assert_only_a_new_snapshot_goes_on(pollers: BucketPollers, reason: str) -> None:
    pollers.source.put(1, (9, 9))
    stopped = pollers.poll("b")
    assert stopped.end() == 1
    assert reason in stopped.log()
    assert "--new-snapshot" in stopped.log()
    assert pollers.poll("b", "--new-snapshot").end() == 0
    check_guarantees(pollers.pubsub.documents, pollers.source)


@pytest.mark.parametrize("member", ["", "header"])
def test_a_state_object_that_has_gone_stops_the_poll(pollers: BucketPollers, member: str) -> None:
    pollers.poll("a")
    (name,) = pollers.names("state/")
    head = head_of(pollers)
    # a long one is not in the head
    head.pop(member, None)
    pollers.bucket.blob("near_realtime/head.json").upload_from_string(json.dumps(head), timeout=10)
    pollers.bucket.blob(name).delete(timeout=10)
    assert_only_a_new_snapshot_goes_on(pollers, "has gone")


@pytest.mark.parametrize(
    "content", [b"", b'{"format":1,"epo', b"null", b'{"format":1,"epoch":"?"}']
)
def test_a_damaged_head_is_put_back_or_moved_away(pollers: BucketPollers, content: bytes) -> None:
    pollers.poll("a")
    head = pollers.bucket.blob("near_realtime/head.json")
    kept = head.download_as_bytes(timeout=10)
    pollers.source.put(1, (9, 9))
    for way_out in (lambda: head.upload_from_string(kept, timeout=10), head.delete):
        head.upload_from_string(content, timeout=10)
        for flags in ((), ("--new-snapshot",)):
            stopped = pollers.poll("b", *flags)
            assert stopped.end() == 1
            assert "Put an older version of it back, or move it away" in stopped.log()
        way_out()
        assert pollers.poll("b").end() == 0
    check_guarantees(pollers.pubsub.documents, pollers.source)


def test_a_state_object_that_is_another_stops_the_poll(pollers: BucketPollers) -> None:
    pollers.poll("a")
    (name,) = pollers.names("state/")
    pollers.bucket.blob(name).upload_from_string("{}", timeout=10)
    assert_only_a_new_snapshot_goes_on(pollers, "is not what was written there")


@pytest.mark.parametrize("lost", ["the disk", "the state object"])
def test_a_new_snapshot_of_a_shrunken_answer_is_refused_in_a_bucket_too(
    pollers: BucketPollers, lost: str
) -> None:
    pollers.poll("a")
    whole = dict(pollers.source.carts)
    for cart_id in (1, 2, 3):
        del pollers.source.carts[cart_id]
    if lost == "the state object":
        pollers.bucket.blob(*pollers.names("state/")).delete(timeout=10)
    before = head_of(pollers)["state"]
    stopped = refused(pollers, "b", "--new-snapshot", bucket=pollers.bucket.name)
    assert stopped.code == 1
    assert "lacks 3 of the 5 carts" in stopped.log
    assert head_of(pollers)["state"] == before
    pollers.source.carts = whole
    assert refused(pollers, "b", "--new-snapshot", bucket=pollers.bucket.name).code == 0
    check_guarantees(pollers.pubsub.documents, pollers.source)


def test_a_damaged_working_copy_is_moved_away_or_left(pollers: BucketPollers) -> None:
    pollers.poll("a")
    (pollers.folder / "a" / "events" / "checkpoint.json").write_bytes(b"")
    pollers.source.put(1, (9, 9))
    stopped = pollers.poll("a")
    assert stopped.end() == 2
    assert "--events-dir of its own, or move them away" in stopped.log()
    pollers.lose("a")
    assert pollers.poll("a").end() == 0
    check_guarantees(pollers.pubsub.documents, pollers.source)


def test_an_emptied_bucket_is_told_and_the_disk_still_knows_what_was_begun(
    pollers: BucketPollers,
) -> None:
    pollers.poll("a")
    # as a poller whose clock was ahead had begun it
    checkpoint = pollers.folder / "a" / "events" / "checkpoint.json"
    lost = json.loads(checkpoint.read_bytes())
    lost |= {"generation": "20991122T100000000Z-00000000", "checksum": ""}
    checkpoint.write_text(json.dumps(lost))
    for name in pollers.names():
        pollers.bucket.blob(name).delete(timeout=10)
    again = pollers.poll("a")
    assert again.summary()["created"] == 5
    assert f"generation={lost['generation']} was begun before" in again.log()
    assert min(json.loads(each)["generation"] for each in pollers.published()) > lost["generation"]


def test_a_pending_batch_that_has_gone_stops_the_poll_and_a_new_snapshot_makes_up_for_it(
    pollers: BucketPollers,
) -> None:
    pollers.poll("a")
    pollers.source.put(1, (1, 7))
    assert pollers.poll("a", failpoint="head-committed").end() == KILLED
    head = pollers.bucket.blob("near_realtime/head.json")
    pollers.end_lease()
    kept = head.download_as_bytes(timeout=10)
    assert pollers.poll("b").summary()["published"] == 1
    # somebody puts the head back, and what it counts on has been deleted
    head.upload_from_string(kept, timeout=10)
    stopped = pollers.poll("c")
    assert stopped.end() == 1
    assert "has gone" in stopped.log()
    assert "--new-snapshot" in stopped.log()
    assert pollers.poll("c", "--new-snapshot").end() == 0
    check_guarantees(pollers.pubsub.documents, pollers.source)
    assert pollers.poll("d").summary()["waiting"] == 0
    assert head_of(pollers).get("pending", []) == []


@pytest.mark.parametrize("quiet_days", [0, 3])
def test_a_head_that_was_put_back_with_its_state_gives_no_sequence_twice(
    pollers: BucketPollers, quiet_days: int
) -> None:
    pollers.poll("a")
    kept = keep(pollers)
    for quantity in (7, 8):
        pollers.source.put(1, (1, quantity))
        pollers.poll("a")
    put_back(pollers, kept)
    # as unchanged polls of the days since would have left it
    note_good_poll(pollers, timedelta(days=quiet_days))
    pollers.source.put(1, (1, 9))
    stopped = pollers.poll("b")
    assert stopped.end() == 1
    assert "is not the newest: it seems to be an old copy that was put back" in stopped.log()
    assert len(pollers.pubsub.documents) == 5 + 2
    assert pollers.poll("b", "--new-snapshot").end() == 0
    check_guarantees(pollers.pubsub.documents, pollers.source)


@pytest.mark.parametrize("goes_back", [False, True])
def test_an_unchanged_poll_asks_after_a_pause_whether_its_head_is_the_newest(
    pollers: BucketPollers, goes_back: bool
) -> None:
    pollers.poll("a")
    kept = keep(pollers)
    pollers.source.put(1, (1, 7))
    pollers.poll("a")
    if goes_back:
        put_back(pollers, kept)
        pollers.source.put(1, (1, 1), (1, 2))
    note_good_poll(pollers, -timedelta(hours=1))
    calls(pollers)
    ended = pollers.poll("b")
    assert ended.end() == (1 if goes_back else 0)
    assert ("is not the newest" in ended.log()) == goes_back
    assert len(calls(pollers)) == 4
    pollers.poll("b", *(["--new-snapshot"] if goes_back else []))
    check_guarantees(pollers.pubsub.documents, pollers.source)


def test_a_new_snapshot_over_a_head_put_back_sorts_after_a_generation_it_never_saw(
    pollers: BucketPollers,
) -> None:
    pollers.poll("a")
    kept = keep(pollers)
    (first,) = pollers.names("published/")
    # as a poller whose clock was ahead had begun it
    ahead = "20991122T100000000Z-00000000"
    name = re.sub(r"[^/.]+(?=\.[0-9]{10}\.)", ahead, first)
    pollers.bucket.blob(name).upload_from_string("", timeout=10)
    put_back(pollers, kept)
    assert pollers.poll("b", "--new-snapshot").end() == 0
    assert max(json.loads(each)["generation"] for each in pollers.published()) > ahead


def keep(pollers: BucketPollers) -> dict[str, bytes]:
    """Return the head and what it counts on."""
    return {
        name: pollers.bucket.blob(name).download_as_bytes(timeout=10)
        for name in pollers.names()
        if "published" not in name
    }


def put_back(pollers: BucketPollers, kept: dict[str, bytes]) -> None:
    for name, content in kept.items():
        pollers.bucket.blob(name).upload_from_string(content, timeout=10)


def note_good_poll(pollers: BucketPollers, later: timedelta) -> None:
    """Let the head say that the last good poll was at another time."""
    head = head_of(pollers)
    moved = datetime.fromisoformat(head["last_good_poll"]) + later
    head["last_good_poll"] = format_time(moved)
    pollers.bucket.blob("near_realtime/head.json").upload_from_string(json.dumps(head), timeout=10)
