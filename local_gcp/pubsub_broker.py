"""Topics and subscriptions in memory: who gets which message, when again, and when no more."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types

from local_gcp.pubsub_limits import MAX_MESSAGES, StatusError, check_messages, check_name

DEFAULT_ACK_SECONDS = 10
DEFAULT_DELIVERY_ATTEMPTS = 5
# a pull is answered with nothing a little before the client's own deadline
PULL_SECONDS = 5.0
PULL_SHARE_OF_DEADLINE = 0.8
# how often a waiting call looks whether its client is still there
LOOK_SECONDS = 0.1

Status = grpc.StatusCode


@dataclass
class Subscription:
    """The messages of one subscription: those that wait, and those with a client."""

    config: types.Subscription
    waiting: OrderedDict[str, types.PubsubMessage] = field(default_factory=OrderedDict)
    # ack id -> message, and when it counts as not acknowledged (monotonic clock)
    outstanding: dict[str, tuple[types.PubsubMessage, float]] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    ack_ids: Iterator[int] = field(default_factory=itertools.count)

    def take(self, limit: int, ack_seconds: float) -> list[types.ReceivedMessage]:
        """Hand out messages; of an ordering key nothing while earlier ones are with a client."""
        taken: list[types.ReceivedMessage] = []
        busy: set[str] = set()
        if self.config.enable_message_ordering:
            busy = {message.ordering_key for message, _ in self.outstanding.values()} - {""}
        for message_id, message in list(self.waiting.items()):
            if len(taken) >= limit:
                break
            if message.ordering_key in busy:
                continue
            del self.waiting[message_id]
            ack_id = f"{message_id}-{next(self.ack_ids)}"
            self.outstanding[ack_id] = (message, time.monotonic() + ack_seconds)
            self.attempts[message_id] += 1
            attempt = self.attempts[message_id] if self.config.dead_letter_policy else 0
            taken.append(
                types.ReceivedMessage(ack_id=ack_id, message=message, delivery_attempt=attempt)
            )
        return taken

    def acknowledge(self, ack_id: str) -> None:
        """Forget a message."""
        if ack_id in self.outstanding:
            message, _ = self.outstanding.pop(ack_id)
            del self.attempts[message.message_id]

    def give_back(self, ack_id: str) -> list[types.PubsubMessage]:
        """Let a message wait again, and those after it with its key; return the dead letters."""
        if ack_id not in self.outstanding:
            return []
        first, _ = self.outstanding[ack_id]
        ordered = self.config.enable_message_ordering and first.ordering_key
        returned = [
            (int(message.message_id), other)
            for other, (message, _) in self.outstanding.items()
            if other == ack_id
            or (
                ordered
                and message.ordering_key == first.ordering_key
                and int(message.message_id) > int(first.message_id)
            )
        ]
        dead = []
        for _, other in sorted(returned, reverse=True):
            message, _ = self.outstanding.pop(other)
            if self.is_exhausted(message):
                dead.append(message)
            else:
                self.waiting[message.message_id] = message
                self.waiting.move_to_end(message.message_id, last=False)
        return dead

    def is_exhausted(self, message: types.PubsubMessage) -> bool:
        """Say whether a message has been delivered as often as the dead-letter policy allows."""
        policy = self.config.dead_letter_policy
        allowed = policy.max_delivery_attempts or DEFAULT_DELIVERY_ATTEMPTS
        return bool(policy.dead_letter_topic) and self.attempts[message.message_id] >= allowed


class Broker:
    """All topics and subscriptions; each public method is one call of the API."""

    def __init__(self) -> None:
        self.topics: dict[str, types.Topic] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.changed = threading.Condition()
        self.message_ids = itertools.count(1)

    def topic(self, name: str) -> types.Topic:
        """Return a topic that exists."""
        if name not in self.topics:
            raise StatusError(Status.NOT_FOUND, f"Resource not found (resource={name}).")
        return self.topics[name]

    def subscription(self, name: str) -> Subscription:
        """Return a subscription that exists, with what was not acknowledged in time back in it."""
        if name not in self.subscriptions:
            raise StatusError(Status.NOT_FOUND, f"Resource not found (resource={name}).")
        subscription, now = self.subscriptions[name], time.monotonic()
        for ack_id, (_, deadline) in list(subscription.outstanding.items()):
            if deadline < now:
                self.give_back(subscription, ack_id)
        return subscription

    def give_back(self, subscription: Subscription, ack_id: str) -> None:
        """Let a message be delivered again, or move it to the dead-letter topic."""
        for message in subscription.give_back(ack_id):
            self.fan_out(subscription.config.dead_letter_policy.dead_letter_topic, message)

    def fan_out(self, topic: str, message: types.PubsubMessage) -> None:
        """Put a message into every subscription of a topic."""
        for subscription in self.subscriptions.values():
            if subscription.config.topic == topic:
                subscription.waiting[message.message_id] = message

    def set_deadline(self, subscription: Subscription, ack_id: str, seconds: int) -> None:
        """Give a client more time; 0 seconds mean that it gives the message back."""
        if seconds == 0:
            self.give_back(subscription, ack_id)
        elif ack_id in subscription.outstanding:
            message, _ = subscription.outstanding[ack_id]
            subscription.outstanding[ack_id] = (message, time.monotonic() + seconds)

    def create_topic(self, topic: types.Topic, _: Any) -> types.Topic:
        """Create a topic."""
        check_name(topic.name)
        if topic.name in self.topics:
            raise StatusError(Status.ALREADY_EXISTS, f"Resource already exists ({topic.name}).")
        self.topics[topic.name] = topic
        return topic

    def get_topic(self, request: types.GetTopicRequest, _: Any) -> types.Topic:
        """Return a topic."""
        return self.topic(request.topic)

    def list_topics(self, request: types.ListTopicsRequest, _: Any) -> types.ListTopicsResponse:
        """List the topics of a project."""
        mine = [t for t in self.topics.values() if t.name.startswith(f"{request.project}/")]
        return types.ListTopicsResponse(topics=mine)

    def delete_topic(self, request: types.DeleteTopicRequest, _: Any) -> Empty:
        """Delete a topic; its subscriptions stay."""
        del self.topics[self.topic(request.topic).name]
        for subscription in self.subscriptions.values():
            if subscription.config.topic == request.topic:
                subscription.config.topic = "_deleted-topic_"
        return Empty()

    def publish(self, request: types.PublishRequest, _: Any) -> types.PublishResponse:
        """Take messages."""
        self.topic(request.topic)
        messages = list(request.messages)
        check_messages(messages)
        for message in messages:
            message.message_id = str(next(self.message_ids))
            message.publish_time = datetime.now(UTC)
            self.fan_out(request.topic, message)
        return types.PublishResponse(message_ids=[message.message_id for message in messages])

    def create_subscription(self, config: types.Subscription, _: Any) -> types.Subscription:
        """Create a subscription."""
        check_name(config.name)
        self.topic(config.topic)
        if config.filter:
            raise StatusError(Status.UNIMPLEMENTED, "This stand-in knows no filters.")
        if config.name in self.subscriptions:
            raise StatusError(Status.ALREADY_EXISTS, f"Resource already exists ({config.name}).")
        config.ack_deadline_seconds = config.ack_deadline_seconds or DEFAULT_ACK_SECONDS
        self.subscriptions[config.name] = Subscription(config)
        return config

    def get_subscription(self, request: types.GetSubscriptionRequest, _: Any) -> types.Subscription:
        """Return a subscription's configuration."""
        return self.subscription(request.subscription).config

    def list_subscriptions(
        self, request: types.ListSubscriptionsRequest, _: Any
    ) -> types.ListSubscriptionsResponse:
        """List the subscriptions of a project."""
        mine = [s.config for n, s in self.subscriptions.items() if n.startswith(request.project)]
        return types.ListSubscriptionsResponse(subscriptions=mine)

    def delete_subscription(self, request: types.DeleteSubscriptionRequest, _: Any) -> Empty:
        """Delete a subscription with its messages."""
        del self.subscriptions[self.subscription(request.subscription).config.name]
        return Empty()

    def pull(self, request: types.PullRequest, context: Any) -> types.PullResponse:
        """Return messages, waiting for the first one unless told not to."""
        seconds = min(context.time_remaining() or PULL_SECONDS, 60) * PULL_SHARE_OF_DEADLINE
        end = time.monotonic() + (0 if request.return_immediately else seconds)
        while True:
            subscription = self.subscription(request.subscription)
            ack_seconds = subscription.config.ack_deadline_seconds
            taken = subscription.take(request.max_messages, ack_seconds)
            if taken or time.monotonic() >= end or not context.is_active():
                return types.PullResponse(received_messages=taken)
            self.changed.wait(LOOK_SECONDS)

    def acknowledge(self, request: types.AcknowledgeRequest, _: Any) -> Empty:
        """Forget messages."""
        subscription = self.subscription(request.subscription)
        for ack_id in request.ack_ids:
            subscription.acknowledge(ack_id)
        return Empty()

    def modify_ack_deadline(self, request: types.ModifyAckDeadlineRequest, _: Any) -> Empty:
        """Give a client more time, or take messages back."""
        subscription = self.subscription(request.subscription)
        for ack_id in request.ack_ids:
            self.set_deadline(subscription, ack_id, request.ack_deadline_seconds)
        return Empty()

    def streaming_pull(
        self, requests: Iterator[types.StreamingPullRequest], context: Any
    ) -> Iterator[types.StreamingPullResponse]:
        """Send messages as they come, while the client's acknowledgements come in."""
        first = next(requests)
        with self.changed:
            name = self.subscription(first.subscription).config.name
        threading.Thread(target=self.read_stream, args=(name, requests), daemon=True).start()
        while context.is_active():
            with self.changed:
                subscription = self.subscription(name)
                free = max(0, limit_of(first) - len(subscription.outstanding))
                taken = subscription.take(free, first.stream_ack_deadline_seconds)
                if not taken:
                    self.changed.wait(LOOK_SECONDS)
            if taken:
                yield types.StreamingPullResponse(received_messages=taken)

    def read_stream(self, name: str, requests: Iterator[types.StreamingPullRequest]) -> None:
        """Apply what a streaming client acknowledges and gives back, until it goes."""
        with suppress(grpc.RpcError, StatusError):
            for request in requests:
                with self.changed:
                    subscription = self.subscription(name)
                    for ack_id in request.ack_ids:
                        subscription.acknowledge(ack_id)
                    for ack_id, seconds in zip(
                        request.modify_deadline_ack_ids,
                        request.modify_deadline_seconds,
                        strict=True,
                    ):
                        self.set_deadline(subscription, ack_id, seconds)
                    self.changed.notify_all()


def limit_of(request: types.StreamingPullRequest) -> int:
    """Return how many messages a streaming client takes before it acknowledges some."""
    return int(request.max_outstanding_messages or MAX_MESSAGES)
