"""`carts_state.json`: the last snapshot that was believed, one cart a line.

    {"format":2,"generation":"...",...,"carts":[
    {"raw":"...","sequence":"0000000001","signature":"...","cart":{"id":1,...}},
    ...
    ],"tombstones":[
    {"id":7,"sequence":"0000000002"},
    ...
    ],"carts_end":"0000000000012345","checksum":"..."}

The file is JSON, and laid out for a million carts of which few change: `raw` is the hash of a
cart's bytes in the last answer, so that a cart with known bytes is not decoded at all; a line
has `raw` at a fixed place, and lines that stay are copied as bytes. Tombstones stay for ever, and
are looked at only when carts appear or go. `carts_end` is where the carts' lines end. Between
polls the file is the only copy, so a process that runs for months and one started with --once do
the same.
"""

from __future__ import annotations

import re
from binascii import hexlify, unhexlify
from collections.abc import Collection, Iterable, Iterator
from enum import Enum
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from xxhash import xxh3_128, xxh3_128_digest

from ingestion.carts.changes import Cart, HeldDeletions
from ingestion.durable_files import replace_file

FORMAT = 2

RAW_HASH_BYTES = 16

_BLOCK_BYTES = 1 << 20
# so many ids are found in a block of lines sooner than the block is split into its lines
_FEW = 16
_SEPARATOR = b",\n"
_FORMAT = re.compile(rb'\s*\{\s*"format"\s*:\s*(\d+)')
_CARTS = b',"carts":[\n'
_TOMBSTONES = b'\n],"tombstones":[\n'
_CARTS_END = re.compile(rb'\n],"carts_end":"([0-9]{16})"')
_RAW = slice(len('{"raw":"'), len('{"raw":"') + 32)


class CorruptStateError(Exception):
    """The state cannot be read; the message says why. Never taken for a cold start."""


class OldFormatError(CorruptStateError):
    """The state is of a version that did not say what it was made for."""


class StateError(Exception):
    """State and events folder cannot be gone on with; a new snapshot is the way out."""


class Tombstone(msgspec.Struct, frozen=True):
    """What outlives a deleted cart: its sequence goes on if the cart comes back."""

    id: int
    sequence: str


class StateHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in the state but the carts.

    `batch` is the number of the last outbox batch that is in this state. `source` and
    `destination` are what it was made for (see checkpoint.Binding). `etag` and `body`
    (the hash of the whole answer) are the validators of the answer it was made from; both are
    None when the next answer must be looked at whatever it is. `quarantined` has the hashes of
    the records that were refused in that answer.
    """

    format: int = FORMAT
    generation: str
    batch: int
    source: str
    destination: str
    observed_at: str
    etag: str | None = None
    body: str | None = None
    held_deletions: HeldDeletions = HeldDeletions()
    quarantined: tuple[str, ...] = ()
    cart_count: int


class KnownCart(msgspec.Struct, frozen=True, gc=False):
    """One line of the state. The order of the members is the file's layout."""

    raw: str
    sequence: str
    signature: str
    cart: Cart


class Section(Enum):
    """The two lists of lines in a state."""

    CARTS = "carts"
    TOMBSTONES = "tombstones"


_LINE_START = len(
    msgspec.json.encode(KnownCart("0" * 32, "0" * 10, "0" * 64, Cart(7, 7, "", ()))).partition(
        b'7,"userId"'
    )[0]
)


def raw_hash(record: msgspec.Raw | bytes) -> bytes:
    """Return the 16 bytes by which a record is known again.

    xxh3 is no cryptographic hash: a source that set out to could hide a change from us, but by
    chance it does not happen (2^-88 for a million carts of which 1 % change).
    """
    return xxh3_128_digest(record)


def encode_line(known: KnownCart) -> bytes:
    """Return a cart as its line of the state file, without separator."""
    return msgspec.json.encode(known)


def load_header(path: Path) -> StateHeader | None:
    """Return the header of a state that is whole, or None where there is no state.

    Raises CorruptStateError for anything else: a newer format, a cut or changed file.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        head = _read_head(file)
        end = file.seek(0, 2) - len(_checksum_part(""))
        checksum = xxh3_128()
        for block in _blocks(file, 0, end):
            checksum.update(block)
        if file.read() != _checksum_part(checksum.hexdigest()):
            raise CorruptStateError("its checksum does not fit its content")
    try:
        return msgspec.json.decode(head.removesuffix(_CARTS) + b"}", type=StateHeader)
    except msgspec.DecodeError as error:
        raise CorruptStateError(f"its header is not valid ({error})") from None


def read_header(path: Path) -> StateHeader:
    """Return the header of a state of ours, whose checksum is not looked at."""
    with path.open("rb") as file:
        return msgspec.json.decode(_read_head(file).removesuffix(_CARTS) + b"}", type=StateHeader)


def read_index(path: Path) -> dict[bytes, int]:
    """Return raw hash → cart id of every cart in the state, in the order of its lines."""
    start = _LINE_START
    return {
        unhexlify(line[_RAW]): int(line[start : line.index(b",", start)])
        for block in _line_blocks(path)
        for line in block.split(_SEPARATOR)
        if line
    }


def read_carts(path: Path, raw_hashes: Iterable[bytes]) -> dict[int, KnownCart]:
    """Return the carts with these raw hashes, given in the order of the index, by id."""
    found = (
        msgspec.json.decode(block[start:end], type=KnownCart)
        for block, places in _located(path, raw_hashes)
        for start, end in places
    )
    return {known.cart.id: known for known in found}


def read_sequences_of_deleted(path: Path, cart_ids: Collection[int]) -> dict[int, str]:
    """Return the sequence at which each of these carts was deleted, where it once was."""
    if not cart_ids:
        return {}
    stones = (
        msgspec.json.decode(line, type=Tombstone)
        for block in _line_blocks(path, Section.TOMBSTONES)
        if _may_concern(block, cart_ids)
        for line in block.split(_SEPARATOR)
        if line and _id_of_tombstone(line) in cart_ids
    )
    return {stone.id: stone.sequence for stone in stones}


def read_sequences(path: Path, cart_ids: Collection[int]) -> dict[int, str]:
    """Return the sequence of each of these carts, deleted or not, that the state has."""
    start = _LINE_START
    found = read_sequences_of_deleted(path, cart_ids)
    for block in _line_blocks(path):
        for line in block.split(_SEPARATOR):
            if line and (cart_id := int(line[start : line.index(b",", start)])) in cart_ids:
                found[cart_id] = msgspec.json.decode(line, type=KnownCart).sequence
    return found


class StateEdit(NamedTuple):
    """What the next state has otherwise: lines of carts, and tombstones.

    `dropped` are the raw hashes of lines that go, in the order of the index; `added` the lines
    that come; `buried` the new tombstones, and `revived` the ids whose tombstones go.
    """

    dropped: Collection[bytes]
    added: Iterable[bytes]
    buried: Collection[Tombstone] = ()
    revived: Collection[int] = ()


def save_state(path: Path, header: StateHeader, edit: StateEdit) -> None:
    """Replace the state by the old one with `edit`, which is read while the new one is written.

    Where a dropped line is not in the file, CorruptStateError is raised, and the old state stays.
    """
    replace_file(path, _state_blocks(path, header, edit), "state")


def _state_blocks(path: Path, header: StateHeader, edit: StateEdit) -> Iterator[bytes]:
    checksum = xxh3_128()
    size = carts_end = 0
    carts = chain(_kept(path, edit.dropped), _joined(edit.added))
    stones = chain(_kept_tombstones(path, edit), _joined(map(msgspec.json.encode, edit.buried)))
    head = msgspec.json.encode(header).removesuffix(b"}") + _CARTS
    for block in chain([head], _separated(carts), [_TOMBSTONES], _separated(stones)):
        carts_end = size if block is _TOMBSTONES else carts_end
        size += len(block)
        checksum.update(block)
        yield block
    end = _carts_end_part(carts_end)
    checksum.update(end)
    yield end + _checksum_part(checksum.hexdigest())


def _kept_tombstones(path: Path, edit: StateEdit) -> Iterator[bytes]:
    """Yield the tombstones that stay, in blocks without a separator at the end."""
    gone = {stone.id for stone in edit.buried}.union(edit.revived)
    for block in _line_blocks(path, Section.TOMBSTONES):
        lines = block.removesuffix(_SEPARATOR)
        if _may_concern(block, gone):
            split = lines.split(_SEPARATOR)
            lines = _SEPARATOR.join(line for line in split if _id_of_tombstone(line) not in gone)
        if lines:
            yield lines


def _separated(blocks: Iterable[bytes]) -> Iterator[bytes]:
    separator = b""
    for block in blocks:
        yield separator + block
        separator = _SEPARATOR


def _may_concern(block: bytes, cart_ids: Collection[int]) -> bool:
    """Tell whether a block of tombstones may have some of these; a few are looked for at once."""
    return len(cart_ids) > _FEW or any(b'{"id":%d,' % cart_id in block for cart_id in cart_ids)


def _id_of_tombstone(line: bytes) -> int:
    return int(line[len('{"id":') : line.index(b",")])


def _kept(path: Path, dropped: Collection[bytes]) -> Iterator[bytes]:
    """Yield the lines that stay, in blocks, as bytes and without a separator at the end."""
    found = 0
    for block, places in _located(path, dropped):
        found += len(places)
        starts = [0, *(end + len(_SEPARATOR) for _, end in places)]
        ends = [*(start for start, _ in places), len(block)]
        kept = b"".join(block[start:end] for start, end in zip(starts, ends, strict=True))
        if kept:
            yield kept.removesuffix(_SEPARATOR)
    if found != len(dropped):
        raise CorruptStateError(f"{len(dropped) - found} of its carts have gone meanwhile")


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    source = iter(lines)
    while some := list(islice(source, 1000)):
        yield _SEPARATOR.join(some)


def _located(
    path: Path, raw_hashes: Iterable[bytes]
) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
    """Yield the blocks of lines, each with where in it the lines of `raw_hashes` lie.

    They are in the order of the file, so each is looked for from where the last one ended, and
    all lines between two of them are passed over in one search.
    """
    waiting = (b'{"raw":"' + hexlify(raw) for raw in raw_hashes)
    wanted = next(waiting, None)
    for block in _line_blocks(path):
        places = []
        end = 0
        while wanted and (start := block.find(wanted, end)) >= 0:
            end = block.index(_SEPARATOR, start)
            places.append((start, end))
            wanted = next(waiting, None)
        yield block, places


def _line_blocks(path: Path, section: Section = Section.CARTS) -> Iterator[bytes]:
    """Yield the lines of a section in large blocks; a separator ends each line, the last too."""
    if not path.exists():
        return
    with path.open("rb") as file:
        pending = b""
        for block in _blocks(file, *_limits(file, section)):
            pending += block
            whole = pending.rfind(_SEPARATOR) + len(_SEPARATOR)
            if whole >= len(_SEPARATOR):
                yield pending[:whole]
                pending = pending[whole:]
        if pending:
            yield pending + _SEPARATOR


def _limits(file: BinaryIO, section: Section) -> tuple[int, int]:
    """Return where the lines of a section begin and end; the checksum was found to fit before."""
    head = _read_head(file)
    end = file.seek(0, 2) - len(_checksum_part("")) - len(_carts_end_part(0))
    file.seek(max(0, end))
    found = _CARTS_END.match(file.read())
    if not found:
        raise CorruptStateError("it does not end as a state does")
    carts_end = int(found[1])
    if section is Section.CARTS:
        return len(head), carts_end
    return carts_end + len(_TOMBSTONES), end


def _read_head(file: BinaryIO) -> bytes:
    """Return the first line."""
    head = file.readline()
    # looked for by hand: how a newer format goes on is not for this version to know
    version = _FORMAT.match(head)
    if not version:
        raise CorruptStateError("it does not begin as a state does")
    if int(version[1]) == 1:
        raise OldFormatError("it has format 1, which does not say what it was made for")
    if int(version[1]) != FORMAT:
        raise CorruptStateError(
            f"it has format {int(version[1])}, and this version of the script reads {FORMAT}"
        )
    return head


def _carts_end_part(carts_end: int) -> bytes:
    return b'\n],"carts_end":"%016d"' % carts_end


def _checksum_part(checksum: str) -> bytes:
    return b',"checksum":"%32s"}\n' % checksum.encode()


def _blocks(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end and (block := file.read(min(_BLOCK_BYTES, end - start))):
        start += len(block)
        yield block
