"""`carts_state.json`: the last snapshot that was believed, one cart a line.

    {"format":1,"generation":"...",...,"tombstones":[...],"carts":[
    {"raw":"...","sequence":"0000000001","signature":"...","cart":{"id":1,...}},
    ...
    ],"checksum":"..."}

The file is JSON, and laid out for a million carts of which few change: `raw` is the hash of a
cart's bytes in the last answer, so that a cart with known bytes is not decoded at all; a line
has `raw` at a fixed place, and lines that stay are copied as bytes. Between polls the file is
the only copy, so a process that runs for months and one started with --once do the same.
"""

from __future__ import annotations

import re
from binascii import hexlify, unhexlify
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import msgspec
from xxhash import xxh3_128, xxh3_128_digest

from ingestion.carts.changes import Cart, HeldDeletions
from ingestion.durable_files import replace_file

FORMAT = 1

_BLOCK_BYTES = 1 << 20
_SEPARATOR = b",\n"
_FORMAT = re.compile(rb'\s*\{\s*"format"\s*:\s*(\d+)')
_CARTS = b',"carts":[\n'
_RAW = slice(len('{"raw":"'), len('{"raw":"') + 32)


class CorruptStateError(Exception):
    """The state cannot be read; the message says why. Never taken for a cold start."""


class Tombstone(msgspec.Struct, frozen=True):
    """What outlives a deleted cart: its sequence goes on if the cart comes back."""

    id: int
    sequence: str


class StateHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in the state but the carts.

    `batch` is the number of the last outbox batch that is in this state. `etag` and `body`
    (the hash of the whole answer) are the validators of the answer it was made from; both are
    None when the next answer must be looked at whatever it is. `quarantined` has the hashes of
    the records that were refused in that answer.
    """

    format: int = FORMAT
    generation: str
    batch: int
    source: str
    observed_at: str
    etag: str | None = None
    body: str | None = None
    held_deletions: HeldDeletions = HeldDeletions()
    quarantined: tuple[str, ...] = ()
    cart_count: int
    tombstones: tuple[Tombstone, ...] = ()


class KnownCart(msgspec.Struct, frozen=True):
    """One line of the state. The order of the members is the file's layout."""

    raw: str
    sequence: str
    signature: str
    cart: Cart


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
        head, carts_end = _read_head(file)
        checksum = xxh3_128(head)
        for block in _blocks(file, carts_end - len(head)):
            checksum.update(block)
        if file.read() != _tail(checksum.hexdigest()):
            raise CorruptStateError("its checksum does not fit its content")
    try:
        return msgspec.json.decode(head.removesuffix(_CARTS) + b"}", type=StateHeader)
    except msgspec.DecodeError as error:
        raise CorruptStateError(f"its header is not valid ({error})") from None


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


def save_state(
    path: Path, header: StateHeader, dropped: Collection[bytes], added: Iterable[bytes]
) -> None:
    """Replace the state: the old lines but those with a raw hash in `dropped`, then `added`.

    The raw hashes are given in the order of the index. Where one is not in the file,
    CorruptStateError is raised, and the old state stays.
    """
    replace_file(path, _state_blocks(path, header, dropped, added), "state")


def _state_blocks(
    path: Path, header: StateHeader, dropped: Collection[bytes], added: Iterable[bytes]
) -> Iterator[bytes]:
    checksum = xxh3_128()
    block = msgspec.json.encode(header).removesuffix(b"}") + _CARTS
    checksum.update(block)
    yield block
    separator = b""
    for lines in chain(_kept(path, dropped), _joined(added)):
        block = separator + lines
        separator = _SEPARATOR
        checksum.update(block)
        yield block
    yield _tail(checksum.hexdigest())


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


def _line_blocks(path: Path) -> Iterator[bytes]:
    """Yield the lines of the carts in large blocks; a separator ends each line, the last too."""
    if not path.exists():
        return
    with path.open("rb") as file:
        head, carts_end = _read_head(file)
        pending = b""
        for block in _blocks(file, carts_end - len(head)):
            pending += block
            whole = pending.rfind(_SEPARATOR) + len(_SEPARATOR)
            if whole >= len(_SEPARATOR):
                yield pending[:whole]
                pending = pending[whole:]
        if pending:
            yield pending + _SEPARATOR


def _read_head(file: BinaryIO) -> tuple[bytes, int]:
    """Return the first line, and the offset at which the carts end."""
    head = file.readline()
    # looked for by hand: how a newer format goes on is not for this version to know
    version = _FORMAT.match(head)
    if not version:
        raise CorruptStateError("it does not begin as a state does")
    if int(version[1]) != FORMAT:
        raise CorruptStateError(
            f"it has format {int(version[1])}, and this version of the script reads {FORMAT}"
        )
    size = file.seek(0, 2)
    file.seek(len(head))
    return head, max(len(head), size - len(_tail("0" * 32)))


def _tail(checksum: str) -> bytes:
    return b'\n],"checksum":"%s"}\n' % checksum.encode()


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (block := file.read(min(_BLOCK_BYTES, size))):
        size -= len(block)
        yield block
