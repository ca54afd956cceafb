"""A Pub/Sub that keeps what it is sent, and answers what a test wants: Publish only, real gRPC."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent import futures

import grpc
from google.pubsub_v1 import PublishRequest, PublishResponse, PubsubMessage

from local_gcp.servers import hold_port


class RecordingPubSub:
    """`messages` holds what was taken, in order, and `by_topic` the same by topic id.

    `judge` may name the code to refuse one with.

    With `loses_replies` a message is taken, and the client hears UNAVAILABLE once.
    """

    def __init__(self) -> None:
        self.messages: list[PubsubMessage] = []
        self.by_topic: dict[str, list[bytes]] = {}
        self.judge: Callable[[PubsubMessage], grpc.StatusCode | None] = lambda message: None
        self.loses_replies = False
        self._lost: set[bytes] = set()
        self._lock = threading.Lock()
        # so that nobody else is given it between a stop and a start
        self._held = hold_port(0)
        self.port: int = self._held.getsockname()[1]
        if sys.platform != "linux":
            self._held.close()
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        return {"PUBSUB_EMULATOR_HOST": f"127.0.0.1:{self.port}"}

    @property
    def documents(self) -> list[bytes]:
        return [message.data for message in self.messages]

    def start(self) -> None:
        """Listen, after a stop on the same port as before."""
        self._server = grpc.server(
            futures.ThreadPoolExecutor(4),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)],
        )
        handler = grpc.unary_unary_rpc_method_handler(
            self._publish,
            request_deserializer=PublishRequest.deserialize,
            response_serializer=PublishResponse.serialize,
        )
        service = "google.pubsub.v1.Publisher"
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"Publish": handler}),)
        )
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def _publish(self, request: PublishRequest, context: grpc.ServicerContext) -> PublishResponse:
        keys = {message.ordering_key for message in request.messages}
        if len(keys) != 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "one ordering key a request")
        for message in request.messages:
            if code := self.judge(message):
                context.abort(code, f"refused with {code.name}")
        with self._lock:
            self.messages.extend(request.messages)
            topic = self.by_topic.setdefault(request.topic.rpartition("/")[2], [])
            topic.extend(message.data for message in request.messages)
            if self.loses_replies and request.messages[0].data not in self._lost:
                self._lost.add(request.messages[0].data)
                context.abort(grpc.StatusCode.UNAVAILABLE, "the reply was lost")
            return PublishResponse(message_ids=[str(len(self.messages))] * len(request.messages))
