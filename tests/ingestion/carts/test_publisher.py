"""Publishing: order, refusals, outages, signals; against a Pub/Sub that keeps what it is sent."""

from __future__ import annotations

import json
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from cloudevents.core.formats.json import JSONFormat
from google.pubsub_v1 import PubsubMessage

from ingestion.carts import publisher as cart_publisher
from ingestion.carts.publisher import PubSubPublisher
from ingestion.carts.publishing import StopReason
from local_gcp import resources
from local_gcp.servers import LocalGcp
from tests.support.cart_histories import (
    CartsSource,
    Ended,
    carts_source,
    check_guarantees,
    end_stage,
    published,
    run_here,
    start_stage,
)
from tests.support.recording_pubsub import RecordingPubSub

# a busy machine's answer is waited for; where Pub/Sub is down there will be none
PATIENT = ("--publish-timeout", "60")
HASTY = ("--publish-timeout", "1")
FLAGS = ("--project-id", "local-project", *PATIENT)
Code = grpc.StatusCode


@pytest.fixture
def source() -> Iterator[CartsSource]:
    with carts_source() as started:
        for cart_id in range(1, 8):
            started.put(cart_id, (cart_id, 1), (1, 2))
        yield started


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no answer of a busy machine be late, which would make a second message of it."""
    monkeypatch.setattr(cart_publisher, "CALL_SECONDS", 60.0)


@pytest.fixture
def publisher(
    pubsub: RecordingPubSub, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PubSubPublisher]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.environment["PUBSUB_EMULATOR_HOST"])
    with PubSubPublisher("local-project", "carts-events", lambda: False, 0.5) as opened:
        yield opened


def once(folder: Path, source: CartsSource, pubsub: RecordingPubSub, *flags: str) -> Ended:
    return run_here(folder, source.url, "--once", *FLAGS, *flags, env=pubsub.environment)


def document(cart_id: int, sequence: int = 1, padding: int = 0) -> bytes:
    members = {
        "id": f"{cart_id}-{sequence}",
        "partitionkey": f"cart_{cart_id}",
        "sequence": f"{sequence:010d}",
        "padding": "x" * padding,
    }
    return json.dumps(members).encode()


def flags_told(log: str) -> list[str]:
    """Return the flags of the command that a log tells last, between quotes."""
    return shlex.split(log.rpartition("'python ")[2].rpartition("'")[0])[1:]


def refuse(cart_id: int, code: Code) -> Callable[[PubsubMessage], Code | None]:
    return lambda message: code if message.ordering_key == f"cart_{cart_id}" else None


def test_every_message_is_a_structured_cloudevent_with_its_cart_as_key(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    assert once(tmp_path, source, pubsub).code == 0
    assert len(pubsub.messages) == 7
    for message in pubsub.messages:
        event = JSONFormat().read(None, message.data)
        assert message.ordering_key == event.get_subject() == event.get_extension("partitionkey")
        assert message.attributes == {"content-type": "application/cloudevents+json; charset=utf-8"}
    assert sorted(pubsub.documents) == sorted(published(tmp_path))
    check_guarantees(pubsub.documents, source)


def test_the_events_of_a_cart_leave_in_order_and_those_of_many_side_by_side(
    pubsub: RecordingPubSub, publisher: PubSubPublisher
) -> None:
    events = [document(cart, sequence) for sequence in range(1, 6) for cart in range(40)]
    result = publisher.publish(events)
    assert (list(result.acknowledged), result.stopped_by) == (events, None)
    for cart in range(40):
        assert [each for each in pubsub.documents if b'"cart_%d"' % cart in each] == [
            document(cart, sequence) for sequence in range(1, 6)
        ]


def test_a_lost_reply_makes_a_second_message_with_the_same_event(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    pubsub.loses_replies = True
    assert once(tmp_path, source, pubsub).code == 0
    assert len(pubsub.messages) == 14
    assert len(published(tmp_path)) == 7
    check_guarantees(pubsub.documents, source)


def test_an_event_that_is_too_large_is_refused_without_asking(
    pubsub: RecordingPubSub, publisher: PubSubPublisher
) -> None:
    result = publisher.publish([document(1), document(2, 1, 10_000_000), document(2, 2)])
    assert list(result.acknowledged) == [document(1), document(2, 2)]
    assert "too large: 100" in result.rejected[0].reason
    assert len(pubsub.messages) == 2


def test_a_refused_event_waits_in_the_dead_letters_until_it_is_replayed(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    pubsub.judge = refuse(3, Code.INVALID_ARGUMENT)
    refused = once(tmp_path, source, pubsub)
    assert (refused.code, refused.summary["published"], refused.summary["dead_lettered"]) == (
        3,
        6,
        1,
    )
    assert "--replay-dead-letters" in refused.log
    (letters,) = (tmp_path / "events" / "dead_letter").glob("*.jsonl")
    assert (
        json.loads(letters.read_text())["reason"]
        == "INVALID_ARGUMENT: refused with INVALID_ARGUMENT"
    )
    source.put(3, (9, 9))
    assert once(tmp_path, source, pubsub).code == 3
    assert once(tmp_path, source, pubsub, "--replay-dead-letters").code == 3
    pubsub.judge = lambda message: None
    replayed = once(tmp_path, source, pubsub, "--replay-dead-letters")
    assert (replayed.code, replayed.summary["published"], replayed.summary["polls"]) == (0, 2, 0)
    assert not letters.exists()
    check_guarantees(pubsub.documents, source)


@pytest.mark.parametrize(
    ("code", "command"),
    [
        (Code.NOT_FOUND, "gcloud pubsub topics create carts-events --project local-project"),
        (Code.PERMISSION_DENIED, "--role roles/pubsub.publisher"),
        (Code.UNAUTHENTICATED, "--role roles/pubsub.publisher"),
    ],
)
def test_a_topic_that_cannot_be_used_is_exit_1_with_the_command_and_loses_nothing(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub, code: Code, command: str
) -> None:
    pubsub.judge = lambda message: code
    ended = run_here(tmp_path, source.url, *FLAGS, env=pubsub.environment)
    assert (ended.code, ended.summary["waiting"]) == (1, 7)
    assert "projects/local-project/topics/carts-events" in ended.log
    assert "terraform" in ended.log
    assert command in ended.log
    pubsub.judge = lambda message: None
    assert once(tmp_path, source, pubsub).summary["published"] == 7


def test_what_happened_while_pubsub_was_down_arrives_in_order_when_it_is_back(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    assert once(tmp_path, source, pubsub).code == 0
    pubsub.stop()
    for count in (7, 8):
        source.put(1, (1, count))
        ended = once(tmp_path, source, pubsub, *HASTY)
        assert ended.code == 3
        assert str(tmp_path / "events" / "outbox") in ended.log
        assert "near_realtime_ingestion_2.py --once" in ended.log
    assert ended.summary["waiting"] == 2
    pubsub.start()
    ended = once(tmp_path, source, pubsub)
    assert (ended.code, ended.summary["published"], ended.summary["waiting"]) == (0, 2, 0)
    check_guarantees(pubsub.documents, source)


def test_the_loop_keeps_trying_and_delivers_when_pubsub_is_back(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    pubsub.stop()
    flags = (*FLAGS, "--publish-timeout", "0.2", "--poll-interval", "0.1")
    source.put(1, (1, 7))
    process = start_stage(tmp_path, source.url, *flags, env=pubsub.environment)

    def await_two_polls() -> None:
        asked = source.requests
        while source.requests < asked + 2:
            assert process.poll() is None
            time.sleep(0.01)

    await_two_polls()
    source.put(1, (1, 8))
    await_two_polls()
    pubsub.start()
    while len(pubsub.messages) < 8:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert end_stage(process).code == 0
    check_guarantees(pubsub.documents, source)


def test_a_server_that_never_answers_is_given_up_in_bounded_time(
    pubsub: RecordingPubSub, publisher: PubSubPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the good answers come within this from a busy machine, too
    monkeypatch.setattr(cart_publisher, "CALL_SECONDS", 3.0)
    answers = iter([None, None])
    released = threading.Event()

    def hang(message: PubsubMessage) -> None:
        if next(answers, hang) is hang:
            released.wait(150)

    pubsub.judge = hang
    started = time.monotonic()
    result = publisher.publish([document(cart) for cart in range(4)])
    assert time.monotonic() - started < 60
    released.set()
    assert result.stopped_by is StopReason.UNREACHABLE
    assert "DEADLINE_EXCEEDED" in result.problem
    assert len(result.acknowledged) == 2


def test_a_pubsub_that_dies_in_the_middle_gets_the_rest_when_it_is_back_empty(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    for cart_id in range(10, 200):
        source.put(cart_id, (1, 1))

    def die_after_fifty(message: PubsubMessage) -> Code | None:
        return Code.UNAVAILABLE if len(pubsub.messages) >= 50 else None

    pubsub.judge = die_after_fifty
    ended = once(tmp_path, source, pubsub, *HASTY)
    assert ended.code == 3
    before = pubsub.documents
    assert ended.summary["published"] == len(published(tmp_path)) == len(before)
    pubsub.stop()
    pubsub.messages, pubsub.judge = [], lambda message: None
    pubsub.start()
    assert once(tmp_path, source, pubsub).code == 0
    assert len({*before, *pubsub.documents}) == len(before) + len(pubsub.documents) == 197
    check_guarantees(before + pubsub.documents, source)


def test_sigterm_while_ten_thousand_events_leave_ends_bounded_and_loses_and_doubles_nothing(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    for cart_id in range(1, 10_001):
        source.put(cart_id, (1, 1))
    sent: list[int] = []

    def interrupt(message: PubsubMessage) -> None:
        if len(pubsub.messages) >= 1000 and not sent:
            sent.append(process.pid)
            process.send_signal(signal.SIGTERM)

    pubsub.judge = interrupt
    process = start_stage(tmp_path, source.url, *FLAGS, env=pubsub.environment)
    ended = end_stage(process)
    # something waits, and that is never exit 0
    assert ended.code == 3
    assert f"the events wait in {tmp_path / 'events' / 'outbox'}" in ended.log
    assert 1000 <= len(pubsub.messages) < 10_000
    assert ended.summary["waiting"] == 10_000 - len(pubsub.messages)
    assert once(tmp_path, source, pubsub).code == 0
    assert len(pubsub.messages) == 10_000
    check_guarantees(pubsub.documents, source)


def test_what_went_to_one_destination_is_no_reason_to_send_nothing_to_another(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    """After --local-only a topic, a project, an emulator: each refused, or sent all carts."""
    other = RecordingPubSub()
    runs = [
        (("--local-only",), pubsub),
        (("--project-id", "local-project"), pubsub),
        (("--project-id", "another-project"), pubsub),
        (("--project-id", "another-project", "--topic", "another"), pubsub),
        (("--project-id", "another-project", "--topic", "another"), other),
    ]
    assert run_here(tmp_path, source.url, "--once", *runs[0][0]).code == 0
    for flags, server in runs[1:]:
        sent = len(server.messages)
        refused = run_here(tmp_path, source.url, "--once", *flags, env=server.environment)
        assert (refused.code, len(server.messages)) == (2, sent)
        assert "was made for the destination" in refused.log
        assert "--state-file and an --events-dir of its own" in refused.log
        begin_anew = flags_told(refused.log)
        begun = run_here(tmp_path, source.url, *begin_anew, *flags, env=server.environment)
        assert (begun.code, len(server.messages)) == (0, sent + 7)
        check_guarantees(server.documents[sent:], source)
    other.stop()


def test_dead_letters_that_lie_there_are_exit_3_until_they_are_gone(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    pubsub.judge = refuse(3, Code.INVALID_ARGUMENT)
    assert once(tmp_path, source, pubsub).code == 3
    pubsub.judge = lambda message: None
    later = once(tmp_path, source, pubsub)
    assert (later.code, later.summary["dead_lettered"], later.summary["dead_letters"]) == (3, 0, 1)
    assert "dead_letters=1: Pub/Sub rejected these events" in later.log
    replay = flags_told(later.log)
    assert "--replay-dead-letters" in replay
    assert run_here(tmp_path, source.url, *replay, env=pubsub.environment).code == 0
    assert once(tmp_path, source, pubsub).code == 0


def test_dead_letters_of_one_topic_are_not_replayed_to_another(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    pubsub.judge = refuse(3, Code.INVALID_ARGUMENT)
    once(tmp_path, source, pubsub)
    sent = len(pubsub.messages)
    ended = once(tmp_path, source, pubsub, "--replay-dead-letters", "--topic", "another")
    assert (ended.code, len(pubsub.messages)) == (2, sent)


def test_damaged_and_blank_lines_among_the_dead_letters_hold_up_no_other(
    tmp_path: Path, source: CartsSource, pubsub: RecordingPubSub
) -> None:
    pubsub.judge = lambda message: Code.INVALID_ARGUMENT
    once(tmp_path, source, pubsub)
    (letters,) = (tmp_path / "events" / "dead_letter").glob("*.jsonl")
    lines = letters.read_bytes().splitlines()
    damaged = [b"garbage", lines[0][:50], b'{"event":{},"reason":"","failed_at":""}', b"\xff\xfe"]
    letters.write_bytes(b"\n".join([*damaged[:2], b"", b"  ", *lines, *damaged[2:], b""]))
    pubsub.judge = lambda message: None
    ended = once(tmp_path, source, pubsub, "--replay-dead-letters")
    assert (ended.code, ended.summary["published"], ended.summary["dead_letters"]) == (3, 7, 4)
    assert f"line=1 of {letters} is no dead letter" in ended.log
    assert letters.read_bytes().splitlines() == damaged
    check_guarantees(pubsub.documents, source, in_order=False)


def test_a_round_ends_at_its_deadline(pubsub: RecordingPubSub, publisher: PubSubPublisher) -> None:
    released = threading.Event()

    def hang(message: PubsubMessage) -> None:
        if message.ordering_key != "cart_0":
            released.wait(150)

    pubsub.judge = hang
    started = time.monotonic()
    result = publisher.publish([document(cart) for cart in range(4)], started + 1)
    assert time.monotonic() - started < 50
    released.set()
    assert result.stopped_by is StopReason.UNREACHABLE
    assert len(result.acknowledged) < 4
    assert "longer than a round may" in result.problem


def pulled(gcp: LocalGcp, topic: str, count: int) -> list[PubsubMessage]:
    """Return `count` messages, or all that come within some seconds; Pub/Sub sends in pieces."""
    subscription = f"projects/{gcp.project_id}/subscriptions/{topic}-pull"
    messages: list[PubsubMessage] = []
    deadline = time.monotonic() + 60
    while len(messages) < count and time.monotonic() < deadline:
        request = {"subscription": subscription, "max_messages": 100}
        received = gcp.clients.subscriber.pull(request=request, timeout=60).received_messages
        messages += [each.message for each in received]
        if acknowledged := [each.ack_id for each in received]:
            gcp.clients.subscriber.acknowledge(
                request={"subscription": subscription, "ack_ids": acknowledged}, timeout=10
            )
    return messages


@pytest.mark.usefixtures("pubsub_emulator")
def test_a_round_trip_through_the_emulator_gives_back_every_event_in_order(
    tmp_path: Path, source: CartsSource, gcp: LocalGcp
) -> None:
    resources.make_pulled_topic(gcp.clients, "round-trip")
    flags = ("--once", "--topic", "round-trip", *PATIENT)
    assert run_here(tmp_path, source.url, *flags, env=gcp.environment).code == 0
    source.put(1, (5, 5))
    del source.carts[2]
    assert run_here(tmp_path, source.url, *flags, env=gcp.environment).code == 0
    messages = pulled(gcp, "round-trip", 9)
    assert sorted(message.data for message in messages) == sorted(published(tmp_path))
    for message in messages:
        event = JSONFormat().read(None, message.data)
        assert message.ordering_key == event.get_subject()
        assert message.attributes["content-type"].startswith(JSONFormat().get_content_type())
    check_guarantees([message.data for message in messages], source)


@pytest.mark.usefixtures("pubsub_emulator")
def test_an_emulator_that_was_killed_and_comes_back_empty_gets_what_it_had_not_acknowledged(
    tmp_path: Path, source: CartsSource, gcp: LocalGcp
) -> None:
    resources.make_pulled_topic(gcp.clients, "killed")
    flags = ("--once", "--topic", "killed", *PATIENT)
    assert run_here(tmp_path, source.url, *flags, env=gcp.environment).code == 0
    before = pulled(gcp, "killed", 7)
    gcp.kill("pubsub")
    for count in (5, 6):
        source.put(1, (count, count))
        down = run_here(tmp_path, source.url, *flags, *HASTY, env=gcp.environment)
        assert down.code == 3
    gcp.start("pubsub")
    missing = run_here(tmp_path, source.url, *flags, env=gcp.environment)
    assert (missing.code, missing.summary["waiting"]) == (1, 2)
    assert "gcloud pubsub topics create killed" in missing.log
    resources.make_pulled_topic(gcp.clients, "killed")
    ended = run_here(tmp_path, source.url, *flags, env=gcp.environment)
    assert (ended.code, ended.summary["published"]) == (0, 2)
    after = pulled(gcp, "killed", 2)
    check_guarantees([message.data for message in before + after], source)


def test_carts_that_share_ordering_keys_leave_many_in_a_request_and_each_in_order(
    pubsub: RecordingPubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.environment["PUBSUB_EMULATOR_HOST"])
    events = [document(cart, sequence) for sequence in range(1, 4) for cart in range(1_500)]
    with PubSubPublisher("local-project", "carts-events", lambda: False, 5, 4) as sharing:
        result = sharing.publish(events)
    assert (list(result.acknowledged), result.stopped_by) == (events, None)
    for cart in (0, 7, 1_499):
        messages = [each for each in pubsub.messages if b'"cart_%d"' % cart in each.data]
        assert [each.data for each in messages] == [document(cart, each) for each in range(1, 4)]
        assert {each.ordering_key for each in messages} == {f"carts_{cart % 4}"}


def test_a_refused_request_is_sent_again_event_by_event(
    pubsub: RecordingPubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.environment["PUBSUB_EMULATOR_HOST"])
    events = [document(cart) for cart in range(40)]
    pubsub.judge = lambda message: Code.INVALID_ARGUMENT if message.data == events[7] else None
    with PubSubPublisher("local-project", "carts-events", lambda: False, 5, 2) as sharing:
        result = sharing.publish(events)
    assert list(result.acknowledged) == [*events[:7], *events[8:]]
    assert [rejection.event for rejection in result.rejected] == [events[7]]
    assert len(pubsub.messages) == 39
