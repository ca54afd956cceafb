"""The objects beside the head: rounds of events and dead letters that stay, and what may go.

Names hold the epoch of the head under which they were made, and chance: no two are equal.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from ingestion.bucket_errors import BucketRefusedError, BucketUnreachableError
from ingestion.carts.event_batch import GENERATION, format_time
from ingestion.carts.event_store import DeadLetter
from ingestion.carts.publishing import RoundResult
from ingestion.durable_files import failpoint
from ingestion.objects import ObjectFolder

_LABEL = re.compile(rf"{GENERATION}\.[0-9]{{10}}")


class ObjectNames:
    """Names that nobody has given or will give."""

    def __init__(self) -> None:
        """Begin before any epoch."""
        self.epoch = 0

    def unique(self) -> str:
        """Return the part of a name that tells it from all others."""
        return f"{self.epoch:08d}-{secrets.token_hex(8)}"


class EventObjects:
    """What has left, and what was rejected: an object a round.

    What could not be written waits in memory for the next call. If it never comes, the events
    are still pending, and are published again.
    """

    def __init__(
        self, objects: ObjectFolder, names: ObjectNames, now: Callable[[], datetime]
    ) -> None:
        """Write to `objects`, under the day of `now`."""
        self._objects = objects
        self._names = names
        self._now = now
        self._waiting: list[tuple[str, bytes]] = []
        # the objects whose dead letters lie here
        self._letters: set[str] = set()

    def begin(self, letters: set[str], label: str, acknowledged: Iterable[bytes]) -> None:
        """Begin anew with these dead letters, and with what was acknowledged before a kill."""
        self._letters = letters
        self._waiting.clear()
        self._add("published", label, acknowledged)

    def write(self, label: str, result: RoundResult) -> None:
        """Write what became of a round of the batch, or the replay, of this `label`."""
        failed_at = format_time(self._now())
        letters = [
            msgspec.json.encode(DeadLetter(msgspec.Raw(each.event), each.reason, failed_at))
            for each in result.rejected
        ]
        self._add("dead_letter", label, letters)
        self._add("published", label, result.acknowledged)
        self.write_waiting()

    def write_waiting(self) -> None:
        """Write what could not be written before."""
        while self._waiting:
            name, content = self._waiting[0]
            self._objects.write_once(name, content)
            if name.startswith("dead_letter/"):
                self._letters.add(name)
            del self._waiting[0]

    def replace_letters(self, file: Path) -> list[str]:
        """Write what is left of a day's dead letters, and return the names that may go for it."""
        day = f"dead_letter/{file.stem}/"
        before = sorted(name for name in self._letters if name.startswith(day))
        if file.exists():
            name = f"{day}replay.{self._names.unique()}.jsonl"
            self._objects.write_once(name, file.read_bytes())
            self._letters.add(name)
        self._letters.difference_update(before)
        return before

    def _add(self, folder: str, label: str, lines: Iterable[bytes]) -> None:
        if content := b"".join(line + b"\n" for line in lines):
            day = f"{self._now():%Y-%m-%d}"
            name = f"{folder}/{day}/{label}.{self._names.unique()}.jsonl"
            self._waiting.append((name, content))


class Garbage:
    """Objects that no head names any more, and none ever will."""

    def __init__(self, objects: ObjectFolder) -> None:
        """Look for nothing yet."""
        self._objects = objects
        self._names: list[str] = []

    def delete(self, names: Iterable[str]) -> None:
        """Delete these; what cannot be deleted now is tried again the next time."""
        self._names.extend(names)
        with suppress(BucketUnreachableError, BucketRefusedError):
            while self._names:
                self._objects.delete(self._names[0])
                del self._names[0]
        failpoint("garbage-deleted")

    def delete_orphans(self, named: Collection[str], epoch: int) -> None:
        """Delete what was written up to our `epoch` and never committed, or forgotten.

        Only as the holder, and not what newer epochs have written: we may be a sleeper.
        """
        found: list[str] = []
        with suppress(BucketUnreachableError, BucketRefusedError):
            found = [*self._objects.names("state/"), *self._objects.names("outbox/")]
        self.delete(name for name in found if name not in named and _epoch_of(name) <= epoch)


def newest_generation(objects: ObjectFolder) -> str:
    """Return the newest generation of which anything lies in the bucket; empty without any."""
    names = [*objects.names("published/"), *objects.names("outbox/")]
    return max(map(_label_in, names), default="").partition(".")[0]


def newest_label(objects: ObjectFolder, since: str) -> str:
    """Return the label of the newest batch of which anything was published on `since` or later."""
    return max(map(_label_in, objects.names("published/", f"published/{since}")), default="")


def _label_in(name: str) -> str:
    """Return of which batch an object is; empty where it is of none, as that of a replay."""
    label = ".".join(name.rpartition("/")[2].split(".")[:2])
    return label if _LABEL.fullmatch(label) else ""


def _epoch_of(name: str) -> int:
    return int(name.rpartition("-")[0].rpartition("/")[2].rpartition(".")[2])
