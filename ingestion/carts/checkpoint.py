"""events/checkpoint.json: whose events lie in this folder, and how far they have left it.

The state says which batches it has, the outbox which are pending; the checkpoint says which have
left, and is written before their files are removed. A state that knows less than the checkpoint
is an old copy, whatever else lies here; and the generation that begins next sorts after the
checkpoint's, whatever the clock says. The file names itself, so that a copy of the whole folder,
whose original may have gone on, can be told from one that was moved.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ingestion.carts.event_store import Position
from ingestion.carts.state import StateError
from ingestion.durable_files import identity_of, replace_file, temporary_of

_GENERATION = re.compile(r"(\d{8}T\d{6})(\d{3})Z-[0-9a-f]{8}")


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """What a state and its events folder are made for.

    `source` is the API's address; `destination` the topic's full name, with the emulator's
    address where one is used, or "local only"; `state_file` is relative to the events folder, so
    that both can be moved together.
    """

    source: str
    destination: str
    state_file: str


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """All batches of `generation` up to number `batch` have left; none of a newer one exists.

    What was published after `published` belongs to the oldest batch of the outbox, or to older
    generations. `file` is the identity of the file that this was written to; it is no part of
    what is read.
    """

    format: int = 1
    binding: Binding
    generation: str
    batch: int
    published: Position
    file: str = ""


class CheckpointFile:
    """The checkpoint of one events folder, as it was last read or written.

    `copied_from` names the file that it was written to, where it was read from another one; it
    stays so until the next generation begins.
    """

    def __init__(self, events_folder: Path) -> None:
        """Name the file; nothing is read yet."""
        self.path = events_folder / "checkpoint.json"
        self.current: Checkpoint | None = None
        self.copied_from = ""

    def load(self) -> None:
        """Read the checkpoint, where there is one; StateError where it cannot be read."""
        self.current, self.copied_from = None, ""
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=Checkpoint)
        except FileNotFoundError:
            return
        except ValueError as error:
            raise StateError(f"{self.path} cannot be used: {error}. Nothing was changed.") from None
        if identity_of(self.path) not in ("", found.file):
            self.copied_from = found.file
        self.current = replace(found, file="")

    def begin(self, binding: Binding, generation: str, published: Position) -> None:
        """Make a generation known before its first event is."""
        self.copied_from = ""
        self._save(Checkpoint(binding=binding, generation=generation, batch=0, published=published))

    def advance(self, generation: str, batch: int, published: Position) -> None:
        """Note that a batch has left, where it is of the current generation.

        What left of another one has to stay in sight until the next generation begins.
        """
        if self.current and self.current.generation == generation:
            self._save(replace(self.current, batch=batch, published=published))

    def _save(self, checkpoint: Checkpoint) -> None:
        def blocks() -> Iterator[bytes]:
            file = self.copied_from or identity_of(temporary_of(self.path))
            yield msgspec.json.encode(replace(checkpoint, file=file)) + b"\n"

        replace_file(self.path, blocks(), "checkpoint")
        self.current = checkpoint


def generation_after(moment: datetime, newest: str) -> str:
    """Return a name for a state that begins, which sorts after `newest` and those before it.

    It is named for the moment, unless a clock that was ahead has named `newest`.
    """
    utc = moment.astimezone(UTC)
    seen = _GENERATION.fullmatch(newest)
    if seen:
        named = datetime.strptime(seen[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        utc = max(utc, named + timedelta(milliseconds=int(seen[2]) + 1))
    return f"{utc:%Y%m%dT%H%M%S}{utc.microsecond // 1000:03d}Z-{secrets.token_hex(4)}"
