"""Pub/Sub for a machine without Java: gRPC on the client library's own messages, in memory.

Topics and subscriptions, publish, pull and streaming pull, acknowledgement and its deadline,
ordering keys, dead letters. It stands in for Google's emulator and is stricter where that is
laxer than the service: mixed ordering keys in one request, over-long keys and attributes,
`goog` attributes and too large messages are refused. A subscription with a filter is refused
too, because filters are not implemented; a BigQuery subscription is kept, and can be pulled,
which is what local_gcp/subscription.py does.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types

from ingestion.arguments import Parser, port
from local_gcp.pubsub_broker import Broker
from local_gcp.pubsub_limits import MAX_REQUEST_BYTES, StatusError

WORKERS = 32


def unary_handler(broker: Broker, name: str) -> grpc.RpcMethodHandler:
    """Return the gRPC handler of one call, which the broker answers under its lock."""
    request_type, response_type, method = UNARY[name]

    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            with broker.changed:
                response = method(broker, request, context)
                broker.changed.notify_all()
                return response
        except StatusError as refusal:
            context.abort(refusal.code, str(refusal))

    serialize = Empty.SerializeToString if response_type is Empty else response_type.serialize
    return grpc.unary_unary_rpc_method_handler(handle, request_type.deserialize, serialize)


def streaming_handler(broker: Broker) -> grpc.RpcMethodHandler:
    """Return the gRPC handler of StreamingPull."""

    def handle(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from broker.streaming_pull(requests, context)
        except StatusError as refusal:
            context.abort(refusal.code, str(refusal))

    return grpc.stream_stream_rpc_method_handler(
        handle, types.StreamingPullRequest.deserialize, types.StreamingPullResponse.serialize
    )


# call -> its request, its answer, and who gives it
UNARY: dict[str, tuple[Any, Any, Callable[[Broker, Any, Any], Any]]] = {
    "CreateTopic": (types.Topic, types.Topic, Broker.create_topic),
    "GetTopic": (types.GetTopicRequest, types.Topic, Broker.get_topic),
    "ListTopics": (types.ListTopicsRequest, types.ListTopicsResponse, Broker.list_topics),
    "DeleteTopic": (types.DeleteTopicRequest, Empty, Broker.delete_topic),
    "Publish": (types.PublishRequest, types.PublishResponse, Broker.publish),
    "CreateSubscription": (types.Subscription, types.Subscription, Broker.create_subscription),
    "GetSubscription": (
        types.GetSubscriptionRequest,
        types.Subscription,
        Broker.get_subscription,
    ),
    "ListSubscriptions": (
        types.ListSubscriptionsRequest,
        types.ListSubscriptionsResponse,
        Broker.list_subscriptions,
    ),
    "DeleteSubscription": (types.DeleteSubscriptionRequest, Empty, Broker.delete_subscription),
    "Pull": (types.PullRequest, types.PullResponse, Broker.pull),
    "Acknowledge": (types.AcknowledgeRequest, Empty, Broker.acknowledge),
    "ModifyAckDeadline": (types.ModifyAckDeadlineRequest, Empty, Broker.modify_ack_deadline),
}
PUBLISHER_CALLS = ("CreateTopic", "GetTopic", "ListTopics", "DeleteTopic", "Publish")


def start_server(port: int) -> tuple[grpc.Server, int]:
    """Start a Pub/Sub on 127.0.0.1 and return it with its port; OSError where that is in use."""
    server = grpc.server(
        futures.ThreadPoolExecutor(WORKERS),
        # a second server on the port is refused; and the limit is ours to say, not gRPC's 4 MB
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", 2 * MAX_REQUEST_BYTES),
        ],
    )
    broker = Broker()
    publisher = {name: unary_handler(broker, name) for name in UNARY if name in PUBLISHER_CALLS}
    subscriber = {name: unary_handler(broker, name) for name in UNARY if name not in publisher}
    subscriber["StreamingPull"] = streaming_handler(broker)
    for service, handlers in (("Publisher", publisher), ("Subscriber", subscriber)):
        handler = grpc.method_handlers_generic_handler(f"google.pubsub.v1.{service}", handlers)
        server.add_generic_rpc_handlers((handler,))
    try:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError as error:
        raise OSError(f"port {port} is in use") from error
    server.start()
    return server, bound


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--port", type=port, default=8085, help="default: %(default)s")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    args = build_parser().parse_args(argv)
    try:
        server, _ = start_server(args.port)
    except OSError as error:
        print(f"Pub/Sub cannot start: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop(grace=None))
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main())
