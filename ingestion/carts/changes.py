"""What has changed between two snapshots of the carts, and the events that say so.

Everything here is pure: no clock, no file, no network. A snapshot is a mapping from cart id to
`Cart`; the events are CloudEvents 1.0 documents.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, NamedTuple

import msgspec

CREATED = "com.fakestoreapi.cart_created"
MODIFIED = "com.fakestoreapi.cart_modified"
DELETED = "com.fakestoreapi.cart_deleted"

# a poll that would delete more than this share of the known carts, and more than this many
# carts, is taken for an incident of the source until so many polls in a row agree that span so
# many poll intervals; an answer may come a tenth of an interval early
GATE_SHARE = 0.30
GATE_CARTS = 2
GATE_POLLS = 3
GATE_INTERVALS = 3
GATE_SLACK = 0.1

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# that of a cart that has never been seen before
FIRST_SEQUENCE = "0000000001"
SIGNATURE_BYTES = hashlib.sha256().digest_size

# silver believes a cart's date from 1970 to ten years from the day on which it is built
YEARS_AHEAD = 10
_ZONE = r"(?:[Zz]|[+-](?:0\d|1[0-3]):[0-5]\d|[+-]14:00)"
# as JavaScript writes a date, and so the Fake Store; one a line
_USUAL_DATES = re.compile(r"(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\n)*", re.ASCII)
_DATE = re.compile(rf"\d{{4}}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:\.\d{{1,6}})?{_ZONE}?)?", re.ASCII)

_encode_lines = msgspec.json.Encoder().encode_lines
_product_and_quantity = attrgetter("product_id", "quantity")

# BigQuery's integers; JSON has longer ones
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class CartLine(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One product of a cart; the same product may stand on two lines."""

    product_id: Int64
    quantity: Int64


class Cart(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A cart as the API gives it, `__v` and unknown members apart; `date` keeps its spelling."""

    id: Int64
    user_id: Int64
    date: str
    products: tuple[CartLine, ...]


class Change(NamedTuple):
    """One transition of one cart, with the signatures of both its ends."""

    type: str
    cart_id: int
    before: Cart | None
    after: Cart | None
    signature_before: str | None
    signature_after: str | None


class PollContext(NamedTuple):
    """What the events of one poll have in common; times are UTC in RFC 3339."""

    source: str
    generation: str
    observed_after: str | None
    observed_before: str
    snapshot_size: int | None


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """Stands in the events of a cold start: how many carts the whole snapshot has."""

    size: int


class EventData(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The cart before and after, and the span of time in which it changed."""

    cart_id: int
    before: Cart | None
    after: Cart | None
    snapshot: Snapshot | msgspec.UnsetType = msgspec.UNSET
    observed_after: str | None
    observed_before: str


class Event(msgspec.Struct, frozen=True, gc=False):
    """A CloudEvents 1.0 document in structured mode."""

    specversion: str
    id: str
    source: str
    subject: str
    type: str
    time: str
    datacontenttype: str
    partitionkey: str
    generation: str
    sequence: str
    data: EventData


class HeldDeletions(msgspec.Struct, frozen=True):
    """Carts not deleted yet, that the last `polls` polls have all missed, from `since` on."""

    polls: int = 0
    cart_ids: tuple[int, ...] = ()
    since: datetime | None = None


def check_date(date: str, latest: datetime) -> None:
    """Raise ValueError where silver could not read a cart's date, or would not believe it.

    What BigQuery casts to TIMESTAMP: at most six decimals, a zone within 14 hours; the values are
    those that silver takes, from 1970 to `latest`.
    """
    if not _DATE.fullmatch(date):
        raise ValueError("date is no date or date-time that BigQuery can read")
    if not EPOCH <= instant_of(date) <= latest:
        raise ValueError(f"date is not between 1970 and {YEARS_AHEAD} years from now")


def check_dates(dates: Sequence[str], latest: datetime) -> None:
    """Raise ValueError where check_date does for one of them; usual ones are checked at once."""
    if _are_usual(dates):
        instants = msgspec.convert(dates, list[datetime])
        if min(instants, default=EPOCH) >= EPOCH and max(instants, default=latest) <= latest:
            return
    for date in dates:
        check_date(date, latest)


def latest_date(now: datetime) -> datetime:
    """Return the last date that is believed in a cart that is read at `now`."""
    return now + YEARS_AHEAD * timedelta(days=365)


def instant_of(date: str) -> datetime:
    """Return the moment that an API date means; without a time zone it is UTC, as all theirs are.

    Raises ValueError (msgspec.ValidationError is one) where it is no RFC 3339 date or date-time.
    """
    if len(date) == len("2020-03-02"):
        date += "T00:00:00Z"
    instant = msgspec.convert(date, datetime)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def signature(cart: Cart) -> str:
    """Return the SHA-256 of what makes two versions of a cart equal.

    The date counts as an instant and the product lines as a multiset: their order does not
    count, the same product on two lines does. Raises ValueError where the date is none.
    """
    return signatures([cart])[0].hex()


def signatures(carts: Sequence[Cart]) -> list[bytes]:
    """Return the signature of each cart, as bytes; many together take half the time."""
    dates = [cart.date for cart in carts]
    if _are_usual(dates):
        instants = msgspec.convert(dates, list[datetime])
    else:
        instants = [instant_of(date) for date in dates]
    canonical = (
        (cart.id, cart.user_id, _microseconds(instant - EPOCH), _sorted_lines(cart))
        for cart, instant in zip(carts, instants, strict=True)
    )
    return [hashlib.sha256(line).digest() for line in _encode_lines(canonical).splitlines()]


def _are_usual(dates: Sequence[str]) -> bool:
    return bool(_USUAL_DATES.fullmatch("\n".join((*dates, ""))))


def _microseconds(since: timedelta) -> int:
    # as `since // timedelta(microseconds=1)`, three times as fast
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _sorted_lines(cart: Cart) -> list[tuple[int, int]]:
    return sorted(map(_product_and_quantity, cart.products))


def detect_changes(before: Mapping[int, Cart], after: Mapping[int, Cart]) -> Iterator[Change]:
    """Yield each difference between two snapshots, in cart-id order."""
    signed_before, signed_after = _signed(before), _signed(after)
    for cart_id in sorted(before.keys() | after.keys()):
        old, new = signed_before.get(cart_id), signed_after.get(cart_id)
        if old != new:
            kind = MODIFIED if old and new else CREATED if new else DELETED
            yield Change(kind, cart_id, before.get(cart_id), after.get(cart_id), old, new)


def _signed(carts: Mapping[int, Cart]) -> dict[int, str]:
    signed = signatures(list(carts.values()))
    return {cart_id: each.hex() for cart_id, each in zip(carts, signed, strict=True)}


def event_id(change: Change, sequence: str, poll: PollContext) -> str:
    """Return the id of a transition: equal for the same one seen twice, and for no other.

    The sequence is in it, so A to B, back to A and again to B are three ids, and so are a
    deletion and what comes after it.
    """
    return hashlib.sha256(transition(change, sequence, poll)).hexdigest()


def transition(change: Change, sequence: str, poll: PollContext) -> bytes:
    """Return what tells a transition from all others, as the JSON that its id is the hash of."""
    identity = [
        poll.source,
        poll.generation,
        change.cart_id,
        sequence,
        change.signature_before,
        change.signature_after,
    ]
    return msgspec.json.encode(identity)


def make_event(change: Change, previous_sequence: str | None, poll: PollContext) -> Event:
    """Return the event of `change`; `previous_sequence` is that of the cart's event before it."""
    sequence = f"{int(previous_sequence or 0) + 1:010d}"
    size = poll.snapshot_size
    return Event(
        specversion="1.0",
        id=event_id(change, sequence, poll),
        source=poll.source,
        subject=f"cart_{change.cart_id}",
        type=change.type,
        time=poll.observed_before,
        datacontenttype="application/json",
        partitionkey=f"cart_{change.cart_id}",
        generation=poll.generation,
        sequence=sequence,
        data=EventData(
            cart_id=change.cart_id,
            before=change.before,
            after=change.after,
            snapshot=Snapshot(size) if size is not None else msgspec.UNSET,
            observed_after=poll.observed_after,
            observed_before=poll.observed_before,
        ),
    )


def gate_deletions(
    missing: frozenset[int],
    known_count: int,
    held: HeldDeletions,
    *,
    moment: datetime,
    poll_interval: float,
    accept: bool,
) -> tuple[frozenset[int], HeldDeletions]:
    """Decide which of the `missing` carts are deleted now, and which are held.

    Few missing carts are deleted at once. Of a mass loss, only what GATE_POLLS polls in a row
    agree about is, and not before GATE_INTERVALS poll intervals have passed between the first and
    this one, which came at `moment`: retries in quick succession do not confirm each other. A
    cart that comes back in between is not deleted, and one that goes missing later waits for its
    own turn.
    """
    if accept or not is_mass_loss(len(missing), known_count):
        return missing, HeldDeletions()
    agreed = missing.intersection(held.cart_ids) if held.polls else missing
    if not is_mass_loss(len(agreed), known_count):
        agreed, held = missing, HeldDeletions()
    # a clock that has been set back since begins to count the time anew
    since = min(held.since or moment, moment)
    span = timedelta(seconds=poll_interval * (GATE_INTERVALS - GATE_SLACK))
    if held.polls + 1 >= GATE_POLLS and moment - since >= span:
        return agreed, HeldDeletions()
    return frozenset(), HeldDeletions(held.polls + 1, tuple(sorted(agreed)), since)


def is_mass_loss(missing_count: int, known_count: int) -> bool:
    """Tell whether so many of the known carts are missing that it may be the source's fault."""
    return missing_count > GATE_CARTS and missing_count > GATE_SHARE * known_count
