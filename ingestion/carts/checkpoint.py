"""events/checkpoint.json: whose events lie in this folder, and how far they have left it.

The state says which batches it has, the outbox which are pending; the checkpoint says which have
left, and is written before their files are removed. A state that knows less than the checkpoint
is an old copy, whatever else lies here; and the generation that begins next sorts after the
checkpoint's, whatever the clock says. The file names itself, so that a copy of the whole folder,
whose original may have gone on, can be told from one that was moved.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from msgspec.structs import replace
from xxhash import xxh3_128_hexdigest

from ingestion.carts.event_batch import GENERATION
from ingestion.carts.event_store import Position
from ingestion.carts.state import StateError
from ingestion.durable_files import identity_of, replace_file, set_aside, temporary_of

# stands for the identity of a file that another one has taken the place of
SUPERSEDED = "superseded"

log = logging.getLogger(__name__)

_GENERATION = re.compile(r"(\d{8})T(\d{9})Z-[0-9a-f]{8}")


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
    generations. `file` is the identity of the file that this was written to, and `checksum` that
    of all the rest, empty in a file of before; they are no part of what is read.
    """

    format: int = 1
    binding: Binding
    generation: Annotated[str, msgspec.Meta(pattern=f"^{GENERATION}$")]
    batch: int
    published: Position
    file: str = ""
    checksum: str = ""


class CheckpointFile:
    """The checkpoint of one events folder, as it was last read or written.

    `copied_from` names the file that it was written to, where it was read from another one; it
    stays so until the next generation begins. So does `is_damaged`: a file lies here that nobody
    can read.
    """

    def __init__(self, events_folder: Path) -> None:
        """Name the file; nothing is read yet."""
        self.path = events_folder / "checkpoint.json"
        self.current: Checkpoint | None = None
        self.copied_from = ""
        self.is_damaged = False

    def load(self, *, ignores_damage: bool = False) -> None:
        """Read the checkpoint, where there is one; StateError where it cannot be read.

        With `ignores_damage` it is as if there were none, and what lies here is kept.
        """
        self.current, self.copied_from, self.is_damaged = None, "", False
        try:
            found = _decode(self.path.read_bytes())
        except FileNotFoundError:
            return
        except ValueError as error:
            if ignores_damage:
                self.is_damaged = True
                return
            raise StateError(f"{self.path} cannot be used: {error}. Nothing was changed.") from None
        if found.file == SUPERSEDED or identity_of(self.path) not in ("", found.file):
            self.copied_from = found.file
        self.current = replace(found, file="", checksum="")

    def begin(self, binding: Binding, generation: str, published: Position) -> None:
        """Make a generation known before its first event is."""
        if self.is_damaged:
            target = set_aside(self.path)
            log.warning("the damaged checkpoint was set aside: file=%s", target)
        self.copied_from, self.is_damaged = "", False
        self._save(Checkpoint(binding=binding, generation=generation, batch=0, published=published))

    def advance(self, generation: str, batch: int, published: Position) -> None:
        """Note that a batch has left, where it is of the current generation.

        What left of another one has to stay in sight until the next generation begins.
        """
        if self.current and self.current.generation == generation:
            self._save(replace(self.current, batch=batch, published=published))

    def _save(self, checkpoint: Checkpoint) -> None:
        def blocks() -> Iterator[bytes]:
            yield _encode(checkpoint, self.copied_from or identity_of(temporary_of(self.path)))

        superseded = _encode(self.current, SUPERSEDED) if self.current else b""
        with _other_names_of(self.path) as before:
            replace_file(self.path, blocks(), "checkpoint")
            if before:
                before.truncate(before.write(superseded))
        self.current = checkpoint


def _decode(content: bytes) -> Checkpoint:
    """Return a checkpoint; ValueError where it is not what was written."""
    found = msgspec.json.decode(content, type=Checkpoint)
    if found.checksum not in ("", _checksum_of(replace(found, checksum=""))):
        raise ValueError("its checksum does not fit its content")
    return found


def _encode(checkpoint: Checkpoint, file: str) -> bytes:
    named = replace(checkpoint, file=file)
    return msgspec.json.encode(replace(named, checksum=_checksum_of(named))) + b"\n"


@contextmanager
def _other_names_of(path: Path) -> Iterator[BinaryIO | None]:
    """Open a file that will still have a name when another has taken its place; else None.

    A backup of hard links (cp -al) keeps the file itself. Put back, it would pass for one that was
    moved, so it has to be told that its original has gone on.
    """
    # Windows replaces no file that is open
    if os.name != "nt" and path.exists() and path.stat().st_nlink > 1:
        with path.open("r+b") as file:
            yield file
    else:
        yield None


def _checksum_of(checkpoint: Checkpoint) -> str:
    return xxh3_128_hexdigest(msgspec.json.encode(checkpoint))


def generation_after(moment: datetime, newest: str) -> str:
    """Return a name for a state that begins, which sorts after `newest` and those before it.

    It is named for the moment, unless a clock that was ahead has named `newest`.
    """
    utc = moment.astimezone(UTC)
    day, time = f"{utc:%Y%m%d}", f"{utc:%H%M%S}{utc.microsecond // 1000:03d}"
    seen = _GENERATION.fullmatch(newest)
    if seen and seen.groups() >= (day, time):
        # as a number, because a damaged digit makes it no moment of any calendar
        following = f"{int(seen[1] + seen[2]) + 1:017d}"
        day, time = following[:8], following[8:]
    return f"{day}T{time}Z-{secrets.token_hex(4)}"
