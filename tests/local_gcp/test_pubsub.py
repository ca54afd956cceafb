"""Our stand-in for Pub/Sub: what it keeps of the service's rules, through Google's clients."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import (
    AlreadyExists,
    InvalidArgument,
    MethodNotImplemented,
    NotFound,
)
from google.cloud import pubsub_v1
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from local_gcp import pubsub as local_pubsub

PROJECT = "projects/local-project"
TOPIC = f"{PROJECT}/topics/events"
DEAD = f"{PROJECT}/topics/dead"
PULL = f"{PROJECT}/subscriptions/events-pull"
CALL: dict[str, Any] = {"retry": None, "timeout": 60}


class PubSub:
    """A stand-in of one's own, with a topic and an ordered subscription."""

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        channel = grpc.insecure_channel(self.host)
        self.publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        self.subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        self.publisher.create_topic(request={"name": TOPIC}, **CALL)
        self.subscribe(PULL, enable_message_ordering=True)

    def subscribe(self, name: str, **options: Any) -> None:
        """Create a subscription to the topic."""
        request = {"name": name, "topic": TOPIC, **options}
        self.subscriber.create_subscription(request=request, **CALL)

    def publish(self, *data: str, key: str = "") -> list[str]:
        """Publish messages in one request; return their ids."""
        messages = [{"data": one.encode(), "ordering_key": key} for one in data]
        return self.send(*messages)

    def send(self, *messages: Any) -> list[str]:
        """Publish messages as they are."""
        request = {"topic": TOPIC, "messages": list(messages)}
        return list(self.publisher.publish(request=request, **CALL).message_ids)

    def pull(self, limit: int = 10, subscription: str = PULL) -> list[Any]:
        """Return what can be had at once."""
        request = {
            "subscription": subscription,
            "max_messages": limit,
            "return_immediately": True,
        }
        return list(self.subscriber.pull(request=request, **CALL).received_messages)

    def data(self, limit: int = 10) -> list[str]:
        """Pull, and return the messages' data."""
        return [one.message.data.decode() for one in self.pull(limit)]

    def set_deadline(self, seconds: int, *received: Any) -> None:
        """Change the deadline of messages; 0 gives them back."""
        request = {
            "subscription": PULL,
            "ack_ids": [one.ack_id for one in received],
            "ack_deadline_seconds": seconds,
        }
        self.subscriber.modify_ack_deadline(request=request, **CALL)

    def acknowledge(self, *received: Any) -> None:
        """Acknowledge messages."""
        request = {"subscription": PULL, "ack_ids": [one.ack_id for one in received]}
        self.subscriber.acknowledge(request=request, **CALL)


@pytest.fixture
def pubsub() -> Iterator[PubSub]:
    """A fresh stand-in."""
    server, port = local_pubsub.start_server(0)
    yield PubSub(port)
    server.stop(grace=None)


def test_a_message_arrives_whole_and_once(pubsub: PubSub) -> None:
    sent = {"data": b"\x00\xff", "attributes": {"content-type": "x"}, "ordering_key": "cart_1"}
    (message_id,) = pubsub.send(sent)
    (received,) = pubsub.pull()
    assert received.message.message_id == message_id
    assert received.message.data == sent["data"]
    assert dict(received.message.attributes) == sent["attributes"]
    assert received.message.ordering_key == "cart_1"
    assert received.message.publish_time.year >= 2020
    pubsub.acknowledge(received)
    assert pubsub.pull() == []


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "message_count"),
        ([{"data": b"x"}] * 1001, "message_count"),
        ([{"data": b"a", "ordering_key": "1"}, {"data": b"b", "ordering_key": "2"}], "same"),
        ([{"data": b""}], "empty"),
        ([{"data": b"x" * 10_000_001}], "10 MB"),
        ([{"data": b"x", "ordering_key": "k" * 1025}], "ordering key"),
        ([{"data": b"x", "attributes": {"googclient": "1"}}], "attribute"),
        ([{"data": b"x", "attributes": {"a": "v" * 1025}}], "attribute"),
    ],
)
def test_what_the_service_refuses_is_refused(
    pubsub: PubSub, messages: list[Any], said: str
) -> None:
    with pytest.raises(InvalidArgument, match=said):
        pubsub.send(*messages)
    assert pubsub.pull() == []


def test_names_and_repetitions_are_refused(pubsub: PubSub) -> None:
    with pytest.raises(InvalidArgument):
        pubsub.publisher.create_topic(request={"name": f"{PROJECT}/topics/goog-x"}, **CALL)
    with pytest.raises(AlreadyExists):
        pubsub.publisher.create_topic(request={"name": TOPIC}, **CALL)
    with pytest.raises(NotFound):
        pubsub.publisher.publish(request={"topic": DEAD, "messages": [{"data": b"x"}]}, **CALL)
    with pytest.raises(MethodNotImplemented, match="no filters"):
        pubsub.subscribe(f"{PROJECT}/subscriptions/some", filter="attributes:a")


def test_a_key_waits_until_its_messages_are_acknowledged(pubsub: PubSub) -> None:
    pubsub.publish("a1", "a2", "a3", key="a")
    pubsub.publish("b1", key="b")
    first = pubsub.pull(1)
    assert pubsub.data() == ["b1"]
    pubsub.acknowledge(*first)
    assert pubsub.data() == ["a2", "a3"]


def test_a_message_given_back_comes_again_with_those_after_it(pubsub: PubSub) -> None:
    pubsub.publish("a1", "a2", "a3", key="a")
    received = pubsub.pull()
    pubsub.acknowledge(received[0])
    pubsub.set_deadline(0, received[1])
    assert pubsub.data() == ["a2", "a3"]


def test_a_message_whose_deadline_passes_comes_again(pubsub: PubSub) -> None:
    pubsub.publish("a1")
    (received,) = pubsub.pull()
    pubsub.set_deadline(1, received)
    request = {"subscription": PULL, "max_messages": 1}
    (again,) = pubsub.subscriber.pull(request=request, **CALL).received_messages
    assert again.message.message_id == received.message.message_id


def test_a_message_given_back_too_often_is_a_dead_letter(pubsub: PubSub) -> None:
    pubsub.publisher.create_topic(request={"name": DEAD}, **CALL)
    dead_pull = f"{PROJECT}/subscriptions/dead-pull"
    request = {"name": dead_pull, "topic": DEAD}
    pubsub.subscriber.create_subscription(request=request, **CALL)
    pubsub.subscriber.delete_subscription(request={"subscription": PULL}, **CALL)
    pubsub.subscribe(
        PULL, dead_letter_policy={"dead_letter_topic": DEAD, "max_delivery_attempts": 5}
    )
    pubsub.publish("bad")
    attempts = []
    for _ in range(5):
        (received,) = pubsub.pull()
        attempts.append(received.delivery_attempt)
        pubsub.set_deadline(0, received)
    assert attempts == [1, 2, 3, 4, 5]
    assert pubsub.pull() == []
    assert [one.message.data for one in pubsub.pull(subscription=dead_pull)] == [b"bad"]


def test_the_streaming_client_gets_messages_in_order(
    pubsub: PubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.host)
    arrived: queue.Queue[bytes] = queue.Queue()

    def take(message: Any) -> None:
        arrived.put(message.data)
        message.ack()

    expected = [f"a{number}" for number in range(20)]
    pubsub.publish(*expected, key="a")
    with pubsub_v1.SubscriberClient() as client:
        stream = client.subscribe(PULL, callback=take)
        got = [arrived.get(timeout=60).decode() for _ in expected]
        stream.cancel()
        stream.result(timeout=60)
    assert got == expected


def test_the_batching_client_with_ordering_publishes_here(
    pubsub: PubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.host)
    options = pubsub_v1.types.PublisherOptions(enable_message_ordering=True)
    client = pubsub_v1.PublisherClient(publisher_options=options)
    for future in [client.publish(TOPIC, b"x", ordering_key=key) for key in "abab"]:
        future.result(timeout=60)
    assert pubsub.data() == ["x"] * 4


def test_a_port_in_use_is_one_clear_sentence(
    pubsub: PubSub, capsys: pytest.CaptureFixture[str]
) -> None:
    port = pubsub.host.rpartition(":")[2]
    assert local_pubsub.main(["--port", port]) == 1
    assert capsys.readouterr().err == f"Pub/Sub cannot start: port {port} is in use\n"
