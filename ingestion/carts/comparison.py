"""What differs between the carts that are known and an answer. Pure: nothing is read or written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from ingestion.carts.answer import FreshCarts, Reading
from ingestion.carts.changes import CREATED, Change, detect_changes
from ingestion.carts.state import KnownCart


class Comparison(NamedTuple):
    """The changes, and the carts that are the same but written differently."""

    changes: Collection[Change]
    rewritten: list[KnownCart]


class CreatedCarts(Collection[Change]):
    """The changes where no cart was known before: made anew each time, as a million take room."""

    def __init__(self, fresh: FreshCarts) -> None:
        """Decode nothing yet."""
        self._fresh = fresh

    def __iter__(self) -> Iterator[Change]:
        """Yield the changes in cart-id order."""
        for cart_id in sorted(self._fresh):
            fresh = self._fresh[cart_id]
            yield Change(CREATED, cart_id, None, fresh.cart, None, fresh.signature.hex())

    def __len__(self) -> int:
        return len(self._fresh)

    def __contains__(self, change: object) -> bool:
        return any(change == each for each in self)


def missing_ids(index: Mapping[bytes, int], reading: Reading) -> frozenset[int]:
    """Return the known carts that are not in the answer; one with a bad record is."""
    return frozenset(index.values()).difference(reading.same, reading.fresh, reading.bad)


def hashes_to_compare(
    index: Mapping[bytes, int], reading: Reading, deleted: frozenset[int]
) -> list[bytes]:
    """Return the raw hashes of the known carts that are deleted, or have other bytes now.

    Carts known by their bytes are equal on both sides, so only the others are compared. A cart
    whose record is bad stays as it was: it is neither changed nor deleted.
    """
    concerned = deleted.union(reading.fresh)
    return [raw for raw, cart_id in index.items() if cart_id in concerned]


def compare(known: Mapping[int, KnownCart], reading: Reading) -> Comparison:
    """Return what differs between the `known` carts that are to be compared and an answer."""
    if not known:
        return Comparison(CreatedCarts(reading.fresh), [])
    before = {cart_id: line.cart for cart_id, line in known.items()}
    after = {cart_id: fresh.cart for cart_id, fresh in reading.fresh.items()}
    changes = list(detect_changes(before, after))
    changed = {change.cart_id for change in changes}
    rewritten = [
        replace(line, raw=reading.fresh[cart_id].raw_hash.hex())
        for cart_id, line in known.items()
        if cart_id not in changed
    ]
    return Comparison(changes, rewritten)
