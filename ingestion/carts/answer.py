"""What an answer of /carts says, given what is already known: most carts are known by their bytes.

Pure: blocks of bytes in, a `Reading` out. An answer that is no list of carts raises BadAnswer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec

from ingestion.carts.changes import Cart, CartLine, check_date, latest_date
from ingestion.carts.state import raw_hash
from ingestion.json_array import BadAnswer, split_records, top_level_values
from ingestion.json_defects import defect_of, may_have_defects
from ingestion.records import too_many_bad


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


_decode_cart = msgspec.json.Decoder(Cart).decode
# the members of a cart, and of each of its lines
_CART_MEMBERS = tuple(field.encode_name for field in msgspec.structs.fields(Cart))
_LINE_MEMBERS = tuple(field.encode_name for field in msgspec.structs.fields(CartLine))
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
    fresh: dict[int, FreshCart] = {}
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
        carts = _check([window[place] for place in unknown], latest)
        for place, cart in zip(unknown, carts, strict=True):
            if isinstance(cart, Cart):
                fresh[cart.id] = FreshCart(hashes[place], cart)
            else:
                first, *rest = _ids_of(cart.raw)
                bad[first] = cart
                others.update(dict.fromkeys(rest, cart))
    if not records:
        raise BadAnswer("answered an empty list")
    if len(same) < known or len(same | fresh.keys() | bad.keys()) < records:
        raise BadAnswer("answered a list that holds an id twice")
    if bad and too_many_bad(len(bad), records):
        reason = next(iter(bad.values())).reason
        raise BadAnswer(f"answered {len(bad)} bad records of {records}, the first: {reason}")
    others = {key: cart for key, cart in others.items() if key not in same and key not in fresh}
    return Reading(same, fresh, others | bad)


def _check(raws: list[msgspec.Raw], latest: datetime) -> Iterator[Cart | BadCart]:
    """Yield each record as a cart, or with the reason why it is none."""
    carts = [_cart_of(raw, latest) for raw in raws]
    good = [cart for cart in carts if isinstance(cart, Cart)]
    lines = sum(len(cart.products) for cart in good)
    counts = dict.fromkeys(_CART_MEMBERS, len(good)) | dict.fromkeys(_LINE_MEMBERS, lines)
    is_clean = len(good) == len(raws) and not may_have_defects(raws, b",".join(raws), counts)
    for raw, cart in zip(raws, carts, strict=True):
        reason = None if is_clean else defect_of(bytes(raw), counts)
        yield BadCart(bytes(raw), reason) if reason else cart


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
