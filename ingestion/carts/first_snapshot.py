"""The carts of a first snapshot as bytes: their events, and their lines of the state.

A cold start writes both for every cart that the source has, so they are filled into templates: one
is made as always, and for each cart only what differs is put into it. What comes out is what
`make_event` and `encode_line` would give, byte for byte.
"""

from __future__ import annotations

import hashlib
from binascii import hexlify
from collections.abc import Iterator

import msgspec

from ingestion.carts.answer import FreshCarts
from ingestion.carts.changes import (
    CREATED,
    FIRST_SEQUENCE,
    Cart,
    Change,
    PollContext,
    make_event,
    transition,
)
from ingestion.carts.state import KnownCart, encode_line


def first_events(carts: FreshCarts, poll: PollContext) -> Iterator[bytes]:
    """Yield the event that creates each cart, in cart-id order."""
    sample = Change(CREATED, 0, None, None, None, "")
    identity = _template(
        transition(sample, FIRST_SEQUENCE, poll), (b',0,"', b',%d,"'), (b'""]', b'"%b"]')
    )
    event = make_event(sample, None, poll)
    document = _template(
        msgspec.json.encode(event),
        (event.id.encode(), b"%b"),
        (b'"subject":"cart_0"', b'"subject":"cart_%d"'),
        (b'"partitionkey":"cart_0"', b'"partitionkey":"cart_%d"'),
        (b'"cart_id":0,', b'"cart_id":%d,'),
        (b'"after":null,', b'"after":%b,'),
    )
    for cart_id in sorted(carts):
        cart = carts[cart_id]
        hashed = hashlib.sha256(identity % (cart_id, hexlify(cart.signature)))
        yield document % (hexlify(hashed.digest()), cart_id, cart_id, cart_id, cart.text)


def first_lines(carts: FreshCarts) -> Iterator[bytes]:
    """Yield the line of each cart, in cart-id order."""
    sample = Cart(0, 0, "", ())
    line = _template(
        encode_line(KnownCart("", FIRST_SEQUENCE, "", sample)),
        (b'"raw":""', b'"raw":"%b"'),
        (b'"signature":""', b'"signature":"%b"'),
        (msgspec.json.encode(sample), b"%b"),
    )
    for cart_id in sorted(carts):
        cart = carts[cart_id]
        yield line % (hexlify(cart.raw_hash), hexlify(cart.signature), cart.text)


def _template(sample: bytes, *varying: tuple[bytes, bytes]) -> bytes:
    """Return a sample with a place for each of its parts that varies, for bytes' operator %."""
    template = sample.replace(b"%", b"%%")
    for part, place in varying:
        template = template.replace(part, place)
    return template
