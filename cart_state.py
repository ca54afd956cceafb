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
from pathlib import Path
from typing import BinaryIO

import msgspec
from xxhash import xxh3_128, xxh3_128_digest

from cart_changes import Cart, HeldDeletions
from durable_files import replace_file

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
    """Return raw hash → cart id of every cart in the state."""
    start = _LINE_START
    return {
        unhexlify(line[_RAW]): int(line[start : line.index(b",", start)])
        for lines in _cart_lines(path)
        for line in lines
    }


def read_carts(path: Path, raw_hashes: Collection[bytes]) -> dict[int, KnownCart]:
    """Return the carts with these raw hashes, by id."""
    wanted = {hexlify(raw) for raw in raw_hashes}
    found = (
        msgspec.json.decode(line, type=KnownCart)
        for lines in (_cart_lines(path) if wanted else ())
        for line in lines
        if line[_RAW] in wanted
    )
    return {known.cart.id: known for known in found}


def save_state(
    path: Path, header: StateHeader, dropped: Collection[bytes], added: Iterable[bytes]
) -> None:
    """Replace the state: the old lines but those with a raw hash in `dropped`, then `added`.

    CorruptStateError, and the old state stays, where that does not make `header.cart_count`.
    """
    replace_file(
        path, _state_blocks(path, header, {hexlify(raw) for raw in dropped}, added), "state"
    )


def _state_blocks(
    path: Path, header: StateHeader, dropped: set[bytes], added: Iterable[bytes]
) -> Iterator[bytes]:
    checksum = xxh3_128()
    block = msgspec.json.encode(header).removesuffix(b"}") + _CARTS
    checksum.update(block)
    yield block
    first, count = True, 0
    for lines in _kept_and_added(path, dropped, added):
        count += len(lines)
        block = (b"" if first else _SEPARATOR) + _SEPARATOR.join(lines)
        first = False
        checksum.update(block)
        yield block
    if count != header.cart_count:
        raise CorruptStateError(f"it has changed meanwhile: {count} carts, not {header.cart_count}")
    yield _tail(checksum.hexdigest())


def _kept_and_added(
    path: Path, dropped: set[bytes], added: Iterable[bytes]
) -> Iterator[list[bytes]]:
    for lines in _cart_lines(path):
        if kept := [line for line in lines if line[_RAW] not in dropped]:
            yield kept
    new: list[bytes] = []
    for line in added:
        new.append(line)
        if len(new) == 1000:
            yield new
            new = []
    if new:
        yield new


def _cart_lines(path: Path) -> Iterator[list[bytes]]:
    """Yield the lines of the carts, some thousands at a time; none where there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        head, carts_end = _read_head(file)
        pending = b""
        for block in _blocks(file, carts_end - len(head)):
            lines = (pending + block).split(_SEPARATOR)
            pending = lines.pop()
            yield lines
        if pending:
            yield [pending]


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
