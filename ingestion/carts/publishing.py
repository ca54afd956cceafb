"""What it means to publish some events: rounds, and what became of each event of a round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

# events handed to the publisher at once, and the most that a kill can make it publish twice
ROUND_EVENTS = 5_000
# an event may have 10 MB, and a round lies in memory
ROUND_BYTES = 64_000_000


class StopReason(Enum):
    """What kept events here: a signal, something that may pass, something that will not."""

    STOPPED = "stopped"
    UNREACHABLE = "unreachable"
    UNUSABLE = "unusable"


@dataclass(frozen=True)
class Rejection:
    """An event that Pub/Sub will never take, and why."""

    event: bytes
    reason: str


@dataclass(frozen=True)
class RoundResult:
    """What became of a round; what is neither `acknowledged` nor `rejected` is still pending.

    `stopped_by` says why some are pending, and `problem` says it in a sentence.
    """

    acknowledged: Sequence[bytes]
    rejected: Sequence[Rejection] = ()
    stopped_by: StopReason | None = None
    problem: str = ""


@dataclass
class PublishTotals:
    """The sum of several rounds; the first one that is stopped is the last."""

    published: int = 0
    rejected: int = 0
    stopped_by: StopReason | None = None
    problem: str = ""

    def add(self, result: RoundResult) -> None:
        """Count a round."""
        self.published += len(result.acknowledged)
        self.rejected += len(result.rejected)
        self.stopped_by, self.problem = result.stopped_by, result.problem


# publishes a round that has to end by a time.monotonic(), or whenever it does
PublishRound = Callable[[Sequence[bytes], float | None], RoundResult]


def acknowledge_all(events: Sequence[bytes], deadline: float | None = None) -> RoundResult:
    """Stand in for Pub/Sub with --local-only: the event store is all that gets the events."""
    return RoundResult(events)


def rounds(events: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Cut events into lists of at most ROUND_EVENTS, and about ROUND_BYTES."""
    cut: list[bytes] = []
    size = 0
    for event in events:
        cut.append(event)
        size += len(event)
        if len(cut) == ROUND_EVENTS or size >= ROUND_BYTES:
            yield cut
            cut, size = [], 0
    if cut:
        yield cut
