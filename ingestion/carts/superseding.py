"""What a generation that begins would supersede, and whether it may.

Its snapshot takes the place of all carts of before, so an answer that lacks many of them would
delete them unheld: a poll holds such a loss, and a snapshot is refused for it. What was known is
told by the state that is not gone on with, or else by the events. Pure: nothing is read here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import msgspec

from ingestion.carts.changes import DELETED, Snapshot, is_mass_loss
from ingestion.carts.event_batch import GENERATION
from ingestion.json_array import BadAnswer


@dataclass(frozen=True)
class KnownBefore:
    """How many carts there were, and which, where that is known."""

    count: int
    cart_ids: Collection[int] | None = None


class _Data(msgspec.Struct):
    cart_id: int
    snapshot: Snapshot | msgspec.UnsetType = msgspec.UNSET


class _Told(msgspec.Struct):
    source: str
    type: str
    generation: Annotated[str, msgspec.Meta(pattern=f"^{GENERATION}$")]
    sequence: str
    data: _Data


_decode_told = msgspec.json.Decoder(_Told).decode


def check_nothing_vanishes(
    before: KnownBefore | None, present: Collection[int], unreadable: Collection[int]
) -> None:
    """Raise BadAnswer where a snapshot of those `present` lacks as many as a poll would hold.

    Or one that is there, and `unreadable`: a poll leaves such a cart as it was.
    """
    if before is None:
        return
    set_aside = set(before.cart_ids or ()).intersection(unreadable)
    if set_aside:
        raise BadAnswer(
            f"{len(set_aside)} of the {before.count} carts that were known cannot be read in the "
            "answer, and a new snapshot would say that they are gone: run it again when the API is "
            "right, or with --accept-deletes to go on without them."
        )
    if before.cart_ids is None:
        missing = before.count - len(present)
    else:
        missing = len(set(before.cart_ids).difference(present))
    if is_mass_loss(missing, before.count):
        raise BadAnswer(
            f"The answer lacks {missing} of the {before.count} carts that were known, and a new "
            "snapshot would supersede them: run it again, or with --accept-deletes if they are "
            "really gone."
        )


def carts_told_by(documents: Iterable[bytes], source: str) -> KnownBefore | None:
    """Return the carts that the events of the newest generation, in any order, add up to.

    None where they do not tell: where they lack a part of its snapshot, as after the deletion of
    old days, or are of another source.
    """
    newest, origin, size = "", "", -1
    begun: set[int] = set()
    last: dict[int, tuple[str, bool]] = {}
    for document in documents:
        with suppress(ValueError):
            event = _decode_told(document)
            if event.generation < newest:
                continue
            if event.generation > newest:
                newest, origin, size, begun, last = event.generation, event.source, -1, set(), {}
            cart_id = event.data.cart_id
            if isinstance(event.data.snapshot, Snapshot):
                size = event.data.snapshot.size
                begun.add(cart_id)
            latest = (event.sequence, event.type != DELETED)
            last[cart_id] = max(last.get(cart_id, latest), latest)
    if origin != source or len(begun) != size:
        return None
    cart_ids = {cart_id for cart_id, (_, is_there) in last.items() if is_there}
    return KnownBefore(len(cart_ids), cart_ids)
