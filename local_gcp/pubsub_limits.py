"""What Pub/Sub refuses: names, messages and requests beyond the service's documented limits."""

from __future__ import annotations

import re

import grpc
from google.pubsub_v1 import types

# https://cloud.google.com/pubsub/quotas#resource_limits
MAX_MESSAGES = 1000
MAX_REQUEST_BYTES = 10_000_000
MAX_ORDERING_KEY_BYTES = 1024
MAX_ATTRIBUTES = 100
MAX_ATTRIBUTE_NAME_BYTES = 256
MAX_ATTRIBUTE_VALUE_BYTES = 1024

RESOURCE_NAME = re.compile(
    r"projects/[^/]+/(topics|subscriptions)/(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}"
)


class StatusError(Exception):
    """A request that the service refuses, with gRPC's status code."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def check_name(name: str) -> None:
    """Refuse a name that no topic or subscription may have."""
    if not RESOURCE_NAME.fullmatch(name):
        raise StatusError(
            grpc.StatusCode.INVALID_ARGUMENT, f"Invalid resource name given (name={name})."
        )


def check_messages(messages: list[types.PubsubMessage]) -> None:
    """Refuse what the service refuses to publish in one request."""
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise StatusError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"The value for message_count is {len(messages)}; it must be 1 to {MAX_MESSAGES}.",
        )
    if len({message.ordering_key for message in messages}) > 1:
        raise StatusError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "In a single publish request, all messages must have no ordering key or they must all "
            "have the same ordering key.",
        )
    if sum(len(message.data) for message in messages) > MAX_REQUEST_BYTES:
        raise StatusError(
            grpc.StatusCode.INVALID_ARGUMENT, "Request payload size exceeds the limit: 10 MB."
        )
    for message in messages:
        check_message(message)


def check_message(message: types.PubsubMessage) -> None:
    """Refuse a message that the service refuses."""
    attributes = message.attributes
    if not message.data and not attributes:
        raise StatusError(
            grpc.StatusCode.INVALID_ARGUMENT, "One or more messages in the request is empty."
        )
    if len(message.ordering_key.encode()) > MAX_ORDERING_KEY_BYTES:
        raise StatusError(
            grpc.StatusCode.INVALID_ARGUMENT, "The ordering key is longer than 1024 bytes."
        )
    if len(attributes) > MAX_ATTRIBUTES or any(
        not name
        or name.startswith("goog")
        or len(name.encode()) > MAX_ATTRIBUTE_NAME_BYTES
        or len(value.encode()) > MAX_ATTRIBUTE_VALUE_BYTES
        for name, value in attributes.items()
    ):
        raise StatusError(
            grpc.StatusCode.INVALID_ARGUMENT, "The request contains an invalid attribute."
        )
