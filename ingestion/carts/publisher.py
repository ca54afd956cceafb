"""Publish events to Pub/Sub: a request per ordering key, many in flight, in order per cart.

A Publish request may carry one ordering key only, and almost every event has its own: Google's
batching client makes a batch per key, waits to fill it, and keeps a state per key that fails for
ever after one failure until `resume_publish`. Here a request holds what a round has of one key, so
mixed keys cannot be built, and a key's next request is sent after its last one was acknowledged.
What is in flight is bounded in number and in time.

With a key per cart a request is one event as a rule, and the calls are what bounds the speed. With
`ordering_keys` many carts share a key, so that a request holds many events; a cart has one key
still, and so its order.

Sending again after a timeout may publish twice, as any publisher does; the event's id tells.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import grpc
import msgspec
from google.api_core.exceptions import RetryError
from google.api_core.gapic_v1.routing_header import to_grpc_metadata
from google.api_core.retry import AsyncRetry
from google.pubsub_v1 import PublishRequest, PubsubMessage
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport

from ingestion.carts.destination import topic_path
from ingestion.carts.publishing import Rejection, RoundResult, StopReason
from ingestion.durable_files import failpoint
from ingestion.settings import credentials, emulator

log = logging.getLogger(__name__)

# the emulator and one region of the real service are busy with this many; more only waits
IN_FLIGHT = 128
CALL_SECONDS = 5.0
# the real service refuses a longer request, and Google's emulator never answers it
MAX_REQUEST_BYTES = 10_000_000
MAX_REQUEST_EVENTS = 1_000
# a request of several events is over in CALL_SECONDS where the line is slow, too
FULL_REQUEST_BYTES = 1_000_000
# more than what goes with an event: its key, of 1,024 bytes at most, and its attribute
_MESSAGE_BYTES = 1_200

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"

# after an outage gRPC would wait up to two minutes before it connects again, and it would not
# notice a connection that leads nowhere
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_send_message_length", -1),
)

Code = grpc.StatusCode
# they say something about this event, or about who we are; everything else may pass
_REJECTS_EVENT = {Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE}
_REFUSES_US = {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.NOT_FOUND}
# a server between us and the service may have a smaller limit than the service
_TOO_LARGE = "larger than max"

# the library's own message types, without the wrapper that costs more than the call
_Request = PublishRequest.pb()
_Message = PubsubMessage.pb()


class _Key(msgspec.Struct):
    partitionkey: str


_decode_key = msgspec.json.Decoder(_Key).decode


class PubSubPublisher:
    """A topic to publish to; follows PUBSUB_EMULATOR_HOST. Use it as a context manager."""

    def __init__(
        self,
        project_id: str,
        topic_id: str,
        stopped: Callable[[], bool],
        retry_seconds: float,
        ordering_keys: int | None = None,
    ) -> None:
        """Connect lazily. Retrying ends after `retry_seconds`, or when `stopped`.

        With `ordering_keys` the carts share so many ordering keys; without, each has its own.
        """
        self._ordering_keys = ordering_keys
        self.project_id = project_id
        self.topic_id = topic_id
        self._topic = topic_path(project_id, topic_id)
        self._metadata = (to_grpc_metadata([("topic", self._topic)]),)  # type: ignore[no-untyped-call]
        self._stopped = stopped
        self._loop = asyncio.Runner()
        self._retry = AsyncRetry(
            predicate=self._may_pass, initial=0.1, maximum=1.0, timeout=retry_seconds
        )
        self._transport = self._loop.run(_open_transport())
        self._call = self._retry(self._publish_once)

    def __enter__(self) -> PubSubPublisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.run(self._transport.close())  # type: ignore[no-untyped-call]
        self._loop.close()

    def publish(self, events: Sequence[bytes], deadline: float | None = None) -> RoundResult:
        """Publish CloudEvents documents; return which were acknowledged, in the order given.

        Ends early when the topic cannot be reached or used, at `deadline` (a time.monotonic()),
        and when `stopped`: what is in flight is settled first. Never raises for anything that
        the service answers.
        """
        return self._loop.run(self._publish(events, deadline))

    async def _publish(self, events: Sequence[bytes], deadline: float | None) -> RoundResult:
        chains: dict[str, list[int]] = {}
        for position, document in enumerate(events):
            key = ordering_key(_decode_key(document).partitionkey, self._ordering_keys)
            chains.setdefault(key, []).append(position)
        round_ = _Round(events)
        waiting = iter(chains.items())
        workers = min(IN_FLIGHT, len(chains))
        try:
            async with asyncio.timeout(deadline and deadline - time.monotonic()):
                await asyncio.gather(*(self._work(waiting, round_) for _ in range(workers)))
        except TimeoutError:
            round_.end(StopReason.UNREACHABLE, f"{self._topic} took longer than a round may")
        acknowledged = [events[position] for position in sorted(round_.acknowledged)]
        rejected = [
            Rejection(events[position], reason)
            for position, reason in sorted(round_.rejected.items())
        ]
        return RoundResult(acknowledged, rejected, round_.stopped_by, round_.problem)

    async def _work(self, waiting: Iterator[tuple[str, list[int]]], round_: _Round) -> None:
        for key, chain in waiting:
            for positions in _requests(chain, round_.events):
                await self._publish_events(key, positions, round_)
                if round_.stopped_by:
                    return

    async def _publish_events(self, key: str, positions: list[int], round_: _Round) -> None:
        """Publish events of one key in one request; where it is refused, each in its own."""
        if self._stopped():
            round_.end(StopReason.STOPPED, "the publishing was stopped")
        if round_.stopped_by:
            return
        request = self._request(key, [round_.events[position] for position in positions])
        if (size := request.ByteSize()) > MAX_REQUEST_BYTES and len(positions) == 1:
            round_.rejected[positions[0]] = (
                f"too large: {size} bytes, and Pub/Sub takes {MAX_REQUEST_BYTES}"
            )
            return
        try:
            await self._call(request)
        except RetryError as error:
            round_.end(StopReason.UNREACHABLE, self._unreachable(error.cause))
        except grpc.aio.AioRpcError as error:
            if _rejects_event(error) and len(positions) > 1:
                # the answer is about the request, and does not say which event it means
                for position in positions:
                    await self._publish_events(key, [position], round_)
            elif _rejects_event(error):
                round_.rejected[positions[0]] = f"{error.code().name}: {error.details()}"
            elif error.code() in _REFUSES_US:
                round_.end(StopReason.UNUSABLE, self._unusable(error))
            else:
                round_.end(StopReason.UNREACHABLE, self._unreachable(error))
        else:
            round_.acknowledged.extend(positions)
            failpoint("event-acknowledged")

    def _request(self, key: str, events: Iterable[bytes]) -> Any:
        attributes = {"content-type": CONTENT_TYPE}
        messages = [
            _Message(data=event, ordering_key=key, attributes=attributes) for event in events
        ]
        return _Request(topic=self._topic, messages=messages)

    async def _publish_once(self, request: Any) -> None:
        publish: Any = self._transport.publish
        await publish(PublishRequest.wrap(request), timeout=CALL_SECONDS, metadata=self._metadata)

    def _may_pass(self, error: Exception) -> bool:
        return (
            isinstance(error, grpc.aio.AioRpcError)
            and not self._stopped()
            and not _rejects_event(error)
            and error.code() not in _REFUSES_US
        )

    def _unreachable(self, error: BaseException | None) -> str:
        reason = "no answer"
        if isinstance(error, grpc.aio.AioRpcError):
            reason = f"{error.code().name}: {error.details()}"
        return f"Pub/Sub topic {self._topic} could not be reached ({reason})"

    def _unusable(self, error: grpc.aio.AioRpcError) -> str:
        if error.code() is Code.NOT_FOUND:
            return (
                f"Pub/Sub topic {self._topic} does not exist: make it with "
                f"'terraform -chdir=terraform apply', or with "
                f"'gcloud pubsub topics create {self.topic_id} --project {self.project_id}'"
            )
        return (
            f"Pub/Sub topic {self._topic} refused these credentials ({error.code().name}): "
            f"grant the role with 'terraform -chdir=terraform apply', or with 'gcloud pubsub "
            f"topics add-iam-policy-binding {self.topic_id} --project {self.project_id} "
            f"--member serviceAccount:<the key's client_email> --role roles/pubsub.publisher'"
        )


def ordering_key(partition_key: str, ordering_keys: int | None) -> str:
    """Return the ordering key of a cart: `cart_{id}`, or `carts_{id mod N}` where N are shared."""
    if ordering_keys is None:
        return partition_key
    return f"carts_{int(partition_key.removeprefix('cart_')) % ordering_keys}"


def _requests(chain: Sequence[int], events: Sequence[bytes]) -> Iterator[list[int]]:
    """Cut the positions of one key's events into what one request may hold."""
    cut: list[int] = []
    size = 0
    for position in chain:
        more = len(events[position]) + _MESSAGE_BYTES
        if cut and (len(cut) == MAX_REQUEST_EVENTS or size + more > FULL_REQUEST_BYTES):
            yield cut
            cut, size = [], 0
        cut.append(position)
        size += more
    yield cut


class _Round:
    """What has become of the events of one round, by position."""

    def __init__(self, events: Sequence[bytes]) -> None:
        self.events = events
        self.acknowledged: list[int] = []
        self.rejected: dict[int, str] = {}
        self.stopped_by: StopReason | None = None
        self.problem = ""

    def end(self, reason: StopReason, problem: str) -> None:
        """Begin no more requests; of several reasons the first is told."""
        if not self.stopped_by:
            self.stopped_by, self.problem = reason, problem


def _rejects_event(error: grpc.aio.AioRpcError) -> bool:
    return error.code() in _REJECTS_EVENT or _TOO_LARGE in (error.details() or "")


async def _open_transport() -> PublisherGrpcAsyncIOTransport:
    """Return the library's transport; it must be made inside the loop that uses it."""
    if host := emulator("PUBSUB_EMULATOR_HOST"):
        channel = grpc.aio.insecure_channel(host, options=_CHANNEL_OPTIONS)
        return PublisherGrpcAsyncIOTransport(channel=channel)
    return PublisherGrpcAsyncIOTransport(credentials=credentials(), channel=_secure_channel)


def _secure_channel(*args: Any, **keywords: Any) -> grpc.aio.Channel:
    keywords["options"] = _CHANNEL_OPTIONS
    return PublisherGrpcAsyncIOTransport.create_channel(*args, **keywords)
