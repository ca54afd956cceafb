"""What an answer of /carts says, given what is already known: most carts are known by their bytes.

Pure: blocks of bytes in, a `Reading` out. An answer that is no list of carts raises BadAnswer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from ingestion.carts.changes import Cart, Int64, instant_of
from ingestion.carts.state import raw_hash
from ingestion.json_array import BadAnswer, split_records
from ingestion.records import MAX_BAD_SHARE


class FreshCart(NamedTuple):
    """A cart whose bytes were not known: it is new, or changed, or only written differently."""

    raw_hash: bytes
    cart: Cart


class BadCart(NamedTuple):
    """A record with an id that is no cart otherwise, with its bytes and the reason."""

    raw: bytes
    reason: str


@dataclass(frozen=True)
class Reading:
    """An answer: the ids known by their bytes, and all other records by id."""

    same: set[int]
    fresh: dict[int, FreshCart]
    bad: dict[int, BadCart]


class _Identified(msgspec.Struct):
    id: Int64


_decode_cart = msgspec.json.Decoder(Cart).decode
_decode_identified = msgspec.json.Decoder(_Identified).decode


def read_answer(blocks: Iterable[bytes], index: Mapping[bytes, int]) -> Reading:
    """Read a whole answer; `index` maps the raw hashes of the known carts to their ids.

    A bad record with an integer id is set aside, so that its cart can stay as it was. Without
    one nobody could say which cart it is, nor whether another is gone, so the answer is refused;
    so it is when it is empty, when an id stands twice, and when too many records are bad.
    """
    same: set[int] = set()
    fresh: dict[int, FreshCart] = {}
    bad: dict[int, BadCart] = {}
    records = known = 0
    for window in split_records(blocks):
        hashes = list(map(raw_hash, window))
        ids = list(map(index.get, hashes))
        unknown = [place for place, cart_id in enumerate(ids) if cart_id is None]
        records += len(window)
        known += len(window) - len(unknown)
        same.update(cart_id for cart_id in ids if cart_id is not None)
        for place in unknown:
            raw = bytes(window[place])
            try:
                cart = _decode_cart(raw)
                instant_of(cart.date)
                fresh[cart.id] = FreshCart(hashes[place], cart)
            except ValueError as error:  # msgspec's errors are ValueErrors
                bad[_id_of(raw)] = BadCart(raw, str(error))
    if not records:
        raise BadAnswer("answered an empty list")
    if len(same) < known or len(same | fresh.keys() | bad.keys()) < records:
        raise BadAnswer("answered a list that holds an id twice")
    if len(bad) > MAX_BAD_SHARE * records:
        reason = next(iter(bad.values())).reason
        raise BadAnswer(f"answered {len(bad)} bad records of {records}, the first: {reason}")
    return Reading(same, fresh, bad)


def _id_of(raw: bytes) -> int:
    try:
        return _decode_identified(raw).id
    except ValueError:
        raise BadAnswer("answered a record without an integer id") from None
