"""What an answer of /carts says, given what is already known: most carts are known by their bytes.

Pure: blocks of bytes in, a `Reading` out. An answer that is no list of carts raises BadAnswer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec

from ingestion.carts.changes import (
    SIGNATURE_BYTES,
    Cart,
    CartLine,
    check_date,
    check_dates,
    latest_date,
    signatures,
)
from ingestion.carts.state import RAW_HASH_BYTES, raw_hash
from ingestion.json_array import BadAnswer, split_records, top_level_values
from ingestion.json_defects import defect_of, may_have_defects
from ingestion.records import too_many_bad


class FreshCart(msgspec.Struct, frozen=True, gc=False):
    """A cart whose bytes were not known: it is new, or changed, or only written differently.

    `text` is the cart as we write it.
    """

    raw_hash: bytes
    signature: bytes
    text: bytes

    @property
    def cart(self) -> Cart:
        """The cart, decoded anew."""
        return _decode_cart(self.text)


class BadCart(NamedTuple):
    """A record with an id that is no cart otherwise, with its bytes and the reason."""

    raw: bytes
    reason: str


class FreshCarts(Mapping[int, FreshCart]):
    """The fresh carts by id, each kept as bytes: a million decoded ones are a gigabyte."""

    def __init__(self) -> None:
        self._packed: dict[int, bytes] = {}

    def add(self, carts: Sequence[Cart], raw_hashes: Sequence[bytes]) -> None:
        """Keep valid carts, each with the hash of the bytes that it came as."""
        texts = _encode_lines(carts).splitlines()
        for cart, key, signed, text in zip(
            carts, raw_hashes, signatures(carts), texts, strict=True
        ):
            self._packed[cart.id] = key + signed + text

    def __getitem__(self, cart_id: int) -> FreshCart:
        packed = self._packed[cart_id]
        return FreshCart(
            packed[:_KEY_END], packed[_KEY_END:_SIGNATURE_END], packed[_SIGNATURE_END:]
        )

    def __contains__(self, cart_id: object) -> bool:
        return cart_id in self._packed

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


@dataclass(frozen=True)
class Reading:
    """An answer: the ids known by their bytes, and all other records by id."""

    same: set[int]
    fresh: FreshCarts
    bad: dict[int, BadCart]


_encode_lines = msgspec.json.Encoder().encode_lines
_decode_cart = msgspec.json.Decoder(Cart).decode
_decode_carts = msgspec.json.Decoder(list[Cart]).decode
# the members of a cart, and of each of its lines
_CART_MEMBERS = tuple(field.encode_name for field in msgspec.structs.fields(Cart))
_LINE_MEMBERS = tuple(field.encode_name for field in msgspec.structs.fields(CartLine))
# where the parts of a packed cart end
_KEY_END = RAW_HASH_BYTES
_SIGNATURE_END = RAW_HASH_BYTES + SIGNATURE_BYTES
_INTEGER = re.compile(rb"-?(0|[1-9][0-9]{0,18})")


def read_answer(
    blocks: Iterable[bytes], index: Mapping[bytes, int], received_at: datetime
) -> Reading:
    """Read a whole answer; `index` maps the raw hashes of the known carts to their ids.

    A bad record with an integer id is set aside, so that its cart can stay as it was. Without
    one nobody could say which cart it is, nor whether another is gone, so the answer is refused;
    so it is when it is empty, when an id stands in two records, and when too many are bad.
    """
    same: set[int] = set()
    fresh = FreshCarts()
    bad: dict[int, BadCart] = {}
    others: dict[int, BadCart] = {}
    latest = latest_date(received_at)
    records = known = 0
    for window in split_records(blocks):
        hashes = list(map(raw_hash, window))
        ids = list(map(index.get, hashes))
        unknown = [place for place, cart_id in enumerate(ids) if cart_id is None]
        records += len(window)
        known += len(window) - len(unknown)
        same.update(cart_id for cart_id in ids if cart_id is not None)
        checked = _check([window[place] for place in unknown], latest)
        pairs = zip(unknown, checked, strict=True)
        fresh.add(
            [cart for cart in checked if isinstance(cart, Cart)],
            [hashes[place] for place, cart in pairs if isinstance(cart, Cart)],
        )
        for cart in checked:
            if isinstance(cart, BadCart):
                first, *rest = _ids_of(cart.raw)
                bad[first] = cart
                others.update(dict.fromkeys(rest, cart))
    if not records:
        raise BadAnswer("answered an empty list")
    if len(same) < known or len(same.union(fresh, bad)) < records:
        raise BadAnswer("answered a list that holds an id twice")
    if bad and too_many_bad(len(bad), records):
        reason = next(iter(bad.values())).reason
        raise BadAnswer(f"answered {len(bad)} bad records of {records}, the first: {reason}")
    others = {key: cart for key, cart in others.items() if key not in same and key not in fresh}
    return Reading(same, fresh, others | bad)


def _check(raws: list[msgspec.Raw], latest: datetime) -> Sequence[Cart | BadCart]:
    """Return each record as a cart, or with the reason why it is none."""
    array = b"[%b]" % b",".join(raws)
    with suppress(ValueError, RecursionError):  # msgspec's errors are ValueErrors
        good: list[Cart] = _decode_carts(array)
        check_dates([cart.date for cart in good], latest)
        lines = sum(len(cart.products) for cart in good)
        counts = dict.fromkeys(_CART_MEMBERS, len(good)) | dict.fromkeys(_LINE_MEMBERS, lines)
        if not may_have_defects(raws, array, counts):
            return good
    members = {*_CART_MEMBERS, *_LINE_MEMBERS}
    return [_closely_checked(raw, members, latest) for raw in raws]


def _closely_checked(raw: msgspec.Raw, members: set[str], latest: datetime) -> Cart | BadCart:
    reason = defect_of(bytes(raw), members)
    return BadCart(bytes(raw), reason) if reason else _cart_of(raw, latest)


def _cart_of(raw: msgspec.Raw, latest: datetime) -> Cart | BadCart:
    try:
        cart = _decode_cart(raw)
        check_date(cart.date, latest)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        return BadCart(bytes(raw), str(error))
    return cart


def _ids_of(raw: bytes) -> list[int]:
    """Return the ids that a bad record gives itself: one, or it may stand for any of several."""
    ids = [int(value) for value in top_level_values(raw, "id") if _INTEGER.fullmatch(value)]
    if not ids or not all(-(2**63) <= each < 2**63 for each in ids):
        raise BadAnswer("answered a record without an integer id")
    return ids
