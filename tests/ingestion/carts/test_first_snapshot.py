"""The events and the state's lines of a first snapshot: the bytes that are written elsewhere."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.carts.answer import FreshCarts
from ingestion.carts.changes import (
    CREATED,
    FIRST_SEQUENCE,
    Cart,
    CartLine,
    Change,
    PollContext,
    make_event,
    signature,
)
from ingestion.carts.first_snapshot import first_events, first_lines
from ingestion.carts.state import KnownCart, encode_line, raw_hash

integers = st.integers(-(2**63), 2**63 - 1)
dates = st.sampled_from(["2020-03-02T00:00:00.000Z", "2020-03-02", "2020-03-02t01:00:00.5+01:00"])
carts = st.builds(
    Cart, integers, integers, dates, st.lists(st.builds(CartLine, integers, integers)).map(tuple)
)


@settings(deadline=None)
@given(st.lists(carts, unique_by=lambda cart: cart.id))
@pytest.mark.parametrize("source", ["http://api/carts", 'http://api/%d%%/"cart_id":0,"",0,""]'])
def test_they_are_the_bytes_that_one_cart_alone_would_give(
    source: str, created: list[Cart]
) -> None:
    poll = PollContext(source, "20261122T101500123Z-9f2c41aa", None, "2026-11-22T10:15:00Z", 7)
    fresh = FreshCarts()
    fresh.add(created, [raw_hash(b"%d" % cart.id) for cart in created])
    in_order = sorted(created, key=lambda cart: cart.id)
    assert list(first_events(fresh, poll)) == [
        msgspec.json.encode(
            make_event(Change(CREATED, cart.id, None, cart, None, signature(cart)), None, poll)
        )
        for cart in in_order
    ]
    assert list(first_lines(fresh)) == [
        encode_line(
            KnownCart(raw_hash(b"%d" % cart.id).hex(), FIRST_SEQUENCE, signature(cart), cart)
        )
        for cart in in_order
    ]
