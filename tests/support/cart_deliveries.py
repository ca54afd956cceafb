"""Rows of bronze made by hand: one delivery of a cart event, one batch run."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from itertools import count
from typing import Any

from tests.support.dbt_warehouse import Row
from tests.support.shop_history import timestamp

message_ids = count(1)


def cart(cart_id: int, *lines: tuple[int, int], date: str | None = "2020-03-02") -> Row:
    """Return a cart as the API gives it; `lines` are (product id, quantity)."""
    return {
        "id": cart_id,
        "userId": 1,
        "date": date and f"{date}T00:00:00.000Z",
        "products": [{"productId": product, "quantity": quantity} for product, quantity in lines],
    }


def delivery(
    kind: str,
    cart_id: int,
    sequence: int,
    at: dt.datetime,
    *,
    after: Row | None = None,
    before: Row | None = None,
    generation: str = "g1",
    size: int | None = None,
    again_at: dt.datetime | None = None,
) -> tuple[str, Row]:
    """Return one delivery of an event; its first at the event's time, another `again_at`."""
    data: dict[str, Any] = {"cart_id": cart_id, "before": before, "after": after}
    if size is not None:
        data["snapshot"] = {"size": size}
    document = {
        "id": hashlib.sha256(f"{generation} {cart_id} {sequence}".encode()).hexdigest(),
        "type": f"com.fakestoreapi.cart_{kind}",
        "time": timestamp(at),
        "generation": generation,
        "sequence": f"{sequence:010d}",
        "data": data,
    }
    row = {
        "subscription_name": "s",
        "message_id": str(next(message_ids)),
        "publish_time": timestamp(again_at or at),
        "data": document,
        "attributes": {},
    }
    return "carts_events_raw", row


def batch_run(
    entity: str, at: dt.datetime, records: list[Row], *, announced: int | None = None
) -> Iterator[tuple[str, Row]]:
    """Yield what a loaded batch run of an entity leaves in bronze."""
    run_id = hashlib.md5(timestamp(at).encode()).hexdigest()
    for record in records:
        envelope = {"_run_id": run_id, "_ingested_at": timestamp(at), "_source_url": "u"}
        yield f"{entity}_raw", {"record": record} | envelope
    yield (
        "ingestion_runs",
        {
            "run_id": run_id,
            "entity": entity,
            "object": "gs://raw",
            "records": len(records) if announced is None else announced,
            "quarantined": 0,
            "bytes": 1,
            "crc32c": "AAAAAA==",
            "job_id": "job",
            "started_at": timestamp(at),
            "finished_at": timestamp(at),
            "status": "loaded",
        },
    )
