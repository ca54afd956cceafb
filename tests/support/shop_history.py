"""Thirty days of a shop: what its API did, what bronze got of it, and what gold must say.

The gold figures are kept while the shop is simulated, from what truly happened; they are not
computed from the bronze rows, and share nothing with the dbt project's SQL.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

DAYS = 30
LATE = dt.timedelta(days=2)
UNKNOWN_DAY = dt.date(1900, 1, 1)
CATEGORIES = ("men's clothing", "jewelery", "electronics", "women's clothing")
CITIES = (("kilcoole", "Kilcoole"), ("san Antonio", "San Antonio"), ("El paso", "El Paso"))

Row = dict[str, Any]


def timestamp(moment: dt.datetime) -> str:
    """Return the moment as the pipeline writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class Delivery:
    """A row of a bronze table, and when BigQuery got it."""

    arrived_at: dt.datetime
    table: str
    row: Row


@dataclass
class Version:
    """What complete runs told of a product or user from one moment on."""

    attributes: dict[str, Any]
    is_listed: bool
    valid_from: dt.datetime
    valid_to: dt.datetime | None = None


@dataclass
class Event:
    """A change of a cart as it was published first, `before` and `after` as the API gave them."""

    event_id: str
    cart_id: int
    event_type: str
    event_at: dt.datetime
    generation: str
    sequence: int
    snapshot_size: int | None
    before: Row | None
    after: Row | None
    published_date: dt.date


@dataclass
class Shop:
    """A shop that changes at random, the pipeline that watches it, and the figures due.

    `visible` holds what the pipeline has had a chance to see of each cart that exists, with the
    moment of its last change; `versions` what complete runs have told of products and users.
    """

    first_day: dt.date
    seed: int = 1
    bronze: list[Delivery] = field(default_factory=list)
    visible: dict[int, tuple[Row, dt.datetime]] = field(default_factory=dict)
    versions: dict[str, dict[int, list[Version]]] = field(
        default_factory=lambda: {"products": {}, "users": {}}
    )
    lifecycle: dict[dt.date, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    life_lengths: dict[dt.date, list[float]] = field(default_factory=lambda: defaultdict(list))
    health: dict[dt.date, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    lags: dict[dt.date, list[dt.timedelta]] = field(default_factory=lambda: defaultdict(list))
    newest_runs: dict[str, Row] = field(default_factory=dict)
    loaded_at: dict[str, dt.datetime] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    snapshot_at: dt.datetime | None = None  # of the carts that a batch run read

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.products = {number: self._new_product(number) for number in range(1, 13)}
        self.users = {number: self._new_user(number) for number in range(1, 7)}
        self.carts: dict[int, Row] = {}
        self.known: dict[int, Row] = {}  # the pipeline's own state
        self.sequences: Counter[int] = Counter()
        self.births: dict[int, dt.datetime | None] = {}
        self.generation = ""
        self.next_cart_id = 1
        self.message_id = 0

    # -- the shop itself

    def _new_product(self, number: int) -> Row:
        price = self.random.randrange(100, 99999)
        return {
            "id": number,
            "title": f"Thing no. {number} ",
            "price": price // 100 if number % 3 == 0 else price / 100,
            "description": "Añejo, it's “new”",
            "category": self.random.choice(CATEGORIES),
            "image": f"https://fakestoreapi.com/img/{number}.png",
            "rating": {"rate": 3.9, "count": 120},
        }

    def _new_user(self, number: int) -> Row:
        return {
            "id": number,
            "email": f"user{number}@example.com",
            "username": f"user{number}",
            "name": {"firstname": "ann", "lastname": "o'hara"},
            "phone": "1-570-236-7033",
            "address": {
                "city": self.random.choice(CITIES)[0],
                "street": "new road",
                "number": 7682,
                "zipcode": "12926-3874",
                "geolocation": {"lat": "-37.3159", "long": "81.1496"},
            },
            "__v": 0,
        }

    def _new_cart(self, cart_id: int) -> Row:
        day = dt.date(2020, 1, 1) + dt.timedelta(days=self.random.randrange(90))
        lines = [
            {"productId": self.random.choice((*range(1, 13), 999)), "quantity": quantity}
            for quantity in self.random.choices(range(1, 9), k=self.random.randrange(1, 5))
        ]
        if self.random.random() < 0.2:
            lines.append(dict(lines[0]))
        if self.random.random() < 0.1:
            lines.clear()
        return {
            "id": cart_id,
            "userId": self.random.choice((*range(1, 7), 77)),
            "date": None if self.random.random() < 0.05 else f"{day}T00:00:00.000Z",
            "products": lines,
            "__v": 0,
        }

    def change(self) -> None:
        """Let a few carts, products and users change."""
        for _ in range(self.random.randrange(1, 5)):
            self.carts[self.next_cart_id] = self._new_cart(self.next_cart_id)
            self.next_cart_id += 1
        for cart_id in self.random.sample(sorted(self.carts), k=min(4, len(self.carts))):
            self.carts[cart_id] = self._new_cart(cart_id)
        for cart_id in self.random.sample(sorted(self.carts), k=len(self.carts) // 8):
            del self.carts[cart_id]
        gone = sorted(set(range(1, self.next_cart_id)) - self.carts.keys())
        if gone and self.generation and self.random.random() < 0.3:
            again = self.random.choice(gone)
            self.carts[again] = self._new_cart(again)
        number = self.random.randrange(1, 13)
        if number in self.products and self.random.random() < 0.3:
            del self.products[number]
        else:
            self.products[number] = self._new_product(number)
        self.users[self.random.randrange(1, 7)] = self._new_user(self.random.randrange(1, 7))
        for number, user in self.users.items():
            user["id"] = number

    # -- the batch stage

    def run_batch(self, started_at: dt.datetime, fate: str = "loaded") -> None:
        """Write a run of both entities as it fares: loaded, or what can go wrong."""
        run_id = hashlib.md5(str(started_at).encode()).hexdigest()
        for entity, records in (("products", self.products), ("users", self.users)):
            rows = [
                {
                    "record": record,
                    "_run_id": run_id,
                    "_ingested_at": timestamp(started_at),
                    "_source_url": f"https://fakestoreapi.com/{entity}",
                }
                for record in records.values()
            ]
            announced, quarantined = len(rows), 0
            seen = {row["record"]["id"]: row["record"] for row in rows}
            if fate == "incomplete":
                rows = rows[: len(rows) // 2]
            if fate == "quarantined":
                del seen[rows.pop()["record"]["id"]]
                announced, quarantined = len(rows), 1
            if fate == "rejected":
                bad = rows[-1]["record"]
                rows[-1] = rows[-1] | {"record": bad | {"price": "free", "id": bad["id"]}}
                if entity == "users":
                    rows[-1]["record"] = bad | {"id": "seven"}
                del seen[bad["id"]]
            if fate != "failed":
                for row in rows:
                    self.bronze.append(Delivery(started_at, f"{entity}_raw", row))
            self.health[started_at.date()]["incomplete_runs"] += fate == "incomplete"
            self.health[started_at.date()]["rejected_records"] += fate == "rejected"
            status = "failed" if fate == "failed" else "loaded"
            if fate == "unrecorded":
                continue
            self._record_run(run_id, entity, started_at, announced, quarantined, status)
            if fate in ("loaded", "quarantined", "rejected"):
                self._observe(entity, seen, started_at, sees_absence=fate == "loaded")

    def run_carts_batch(self, started_at: dt.datetime) -> None:
        """Write a run of the carts, as the shop has them now."""
        run_id = hashlib.md5(f"carts {started_at}".encode()).hexdigest()
        for cart in self.carts.values():
            row = {
                "record": cart | {"products": cart["products"][::-1]},
                "_run_id": run_id,
                "_ingested_at": timestamp(started_at),
                "_source_url": "https://fakestoreapi.com/carts",
            }
            self.bronze.append(Delivery(started_at, "carts_raw", row))
        self._record_run(run_id, "carts", started_at, len(self.carts), 0, "loaded")
        self.snapshot_at = started_at

    def _record_run(
        self,
        run_id: str,
        entity: str,
        started_at: dt.datetime,
        records: int,
        quarantined: int,
        status: str,
    ) -> None:
        finished_at = started_at + dt.timedelta(seconds=40)
        row = {
            "run_id": run_id,
            "entity": entity,
            "object": f"gs://raw/{entity}/{run_id}/data.json",
            "records": records,
            "quarantined": quarantined,
            "bytes": 1000,
            "crc32c": "AAAAAA==",
            "job_id": f"load_{entity}_{run_id}",
            "started_at": timestamp(started_at),
            "finished_at": timestamp(finished_at),
            "status": status,
        }
        self.bronze.append(Delivery(finished_at, "ingestion_runs", row))
        self.newest_runs[entity] = row | {"started_at": started_at, "finished_at": finished_at}
        day = self.health[started_at.date()]
        day["runs"] += 1
        day["failed_runs"] += status == "failed"
        day["quarantined"] += quarantined
        if status == "loaded":
            day["records"] += records
            self.loaded_at[entity] = finished_at

    def _observe(
        self, entity: str, seen: dict[int, Row], at: dt.datetime, *, sees_absence: bool
    ) -> None:
        """Remember what a complete run told."""
        cities = dict(CITIES)
        for number, record in seen.items():
            if entity == "products":
                attributes = {
                    "title": record["title"].strip(),
                    "category": record["category"],
                    "price": Decimal(str(record["price"])),
                }
            else:
                attributes = {"city": cities[record["address"]["city"]]}
            self._note(entity, number, Version(attributes, is_listed=True, valid_from=at))
        for number, versions in self.versions[entity].items():
            if sees_absence and number not in seen:
                self._note(entity, number, Version(versions[-1].attributes, False, at))

    def _note(self, entity: str, number: int, version: Version) -> None:
        versions = self.versions[entity].setdefault(number, [])
        if versions:
            before = versions[-1]
            if (before.attributes, before.is_listed) == (version.attributes, version.is_listed):
                return
            before.valid_to = version.valid_from
        versions.append(version)

    # -- the near-real-time stage

    def poll(self, at: dt.datetime) -> None:
        """See every change of the carts since the last poll, and publish each."""
        for cart_id in sorted(self.known.keys() | self.carts.keys()):
            before, after = self.known.get(cart_id), self.carts.get(cart_id)
            if before == after:
                continue
            kind = "created" if before is None else "deleted" if after is None else "modified"
            day = self.lifecycle[at.date()]
            day[
                {"created": "created_carts", "deleted": "deleted_carts"}.get(kind, "modifications")
            ] += 1
            if kind == "created":
                self.births[cart_id] = at
            if kind == "deleted" and (born := self.births.pop(cart_id)) is not None:
                self.life_lengths[at.date()].append((at - born).total_seconds())
            self._publish(kind, cart_id, before, after, at)
            if after is None:
                del self.visible[cart_id]
            else:
                self.visible[cart_id] = (after, at)
        self.known = dict(self.carts)

    def start_cold(self, at: dt.datetime, *, withheld: int = 0, late: int = 0) -> None:
        """Begin a generation: the state is lost, every cart is published as a snapshot.

        The first `withheld` events never reach Pub/Sub, so the snapshot stays incomplete; the
        next `late` ones arrive two days later.
        """
        self.generation = f"{at:%Y%m%dT%H%M%S}123Z-{self.random.randrange(16**8):08x}"
        self.sequences.clear()
        cart_ids = sorted(self.carts)
        published = {cart_id: (self.carts[cart_id], at) for cart_id in cart_ids[withheld:]}
        if not withheld:
            vanished = self.visible.keys() - self.carts.keys()
            self.lifecycle[at.date()]["superseded_carts"] += len(vanished)
            for cart_id in vanished:
                del self.births[cart_id]
            self.visible.clear()
        self.visible.update(published)
        for number, cart_id in enumerate(published):
            self.births.setdefault(cart_id, None)
            self.lifecycle[at.date()]["snapshot_carts"] += 1
            self._publish(
                "created",
                cart_id,
                None,
                self.carts[cart_id],
                at,
                snapshot_size=len(cart_ids),
                is_late=number < late,
            )
        self.known = dict(self.carts)

    def _publish(
        self,
        kind: str,
        cart_id: int,
        before: Row | None,
        after: Row | None,
        at: dt.datetime,
        *,
        snapshot_size: int | None = None,
        is_late: bool = False,
    ) -> None:
        """Send one event, sometimes late, sometimes twice, never in order of arrival."""
        self.sequences[cart_id] += 1
        sequence = self.sequences[cart_id]
        identity = f"{self.generation} {cart_id} {sequence}"
        data: Row = {"cart_id": cart_id, "before": before, "after": after}
        if kind == "created":
            del data["before"]
        if kind == "deleted":
            del data["after"]
        if snapshot_size is not None:
            data["snapshot"] = {"size": snapshot_size}
        document = {
            "specversion": "1.0",
            "id": hashlib.sha256(identity.encode()).hexdigest(),
            "source": "https://fakestoreapi.com/carts",
            "subject": f"cart_{cart_id}",
            "type": f"com.fakestoreapi.cart_{kind}",
            "time": timestamp(at),
            "datacontenttype": "application/json",
            "partitionkey": f"cart_{cart_id}",
            "generation": self.generation,
            "sequence": f"{sequence:010d}",
            "data": data | {"observed_after": None, "observed_before": timestamp(at)},
        }
        lag = dt.timedelta(milliseconds=self.random.randrange(100, 90_000))
        waits_in_outbox = self.random.random() < 0.1
        published_at = at + lag + (LATE if waits_in_outbox else dt.timedelta())
        self.events.append(
            Event(
                document["id"],
                cart_id,
                kind,
                at,
                self.generation,
                sequence,
                snapshot_size,
                before,
                after,
                published_at.date(),
            )
        )
        self.lags[published_at.date()].append(published_at - at)
        self.health[published_at.date()]["events"] += 1
        arrives_late = is_late or self.random.random() < 0.1
        self._deliver(document, published_at, LATE if arrives_late else dt.timedelta())
        if self.random.random() < 0.15:  # the publisher lost the answer and sent it again
            again = published_at + dt.timedelta(hours=self.random.choice((1, 30, 200)))
            self._deliver(document, again, dt.timedelta(), is_duplicate=True)
        if self.random.random() < 0.1:  # the subscription wrote the message twice
            self._deliver(document, published_at, LATE, is_duplicate=True, is_same=True)

    def _deliver(
        self,
        document: Row,
        published_at: dt.datetime,
        delay: dt.timedelta,
        *,
        is_duplicate: bool = False,
        is_same: bool = False,
    ) -> None:
        end = dt.datetime.combine(self.first_day + dt.timedelta(days=DAYS), dt.time(), dt.UTC)
        if is_duplicate and published_at >= end:
            return
        self.message_id += not is_same
        row = {
            "subscription_name": "projects/p/subscriptions/carts-events-bigquery",
            "message_id": str(self.message_id),
            "publish_time": timestamp(published_at),
            "data": document,
            "attributes": {"content-type": "application/cloudevents+json; charset=utf-8"},
        }
        self.bronze.append(Delivery(published_at + delay, "carts_events_raw", row))
        day = self.health[published_at.date()]
        day["deliveries"] += 1
        day["duplicates"] += is_duplicate

    def deliver_rubbish(self, at: dt.datetime) -> None:
        """Deliver events that cannot be typed."""
        cart = self._new_cart(500) | {"products": [{"productId": 1, "quantity": "many"}]}
        good = {
            "id": f"rubbish {at}",
            "type": "com.fakestoreapi.cart_created",
            "time": timestamp(at),
            "generation": self.generation,
            "sequence": "0000000001",
            "data": {"cart_id": 500, "after": self._new_cart(500)},
        }
        for bad in (
            good | {"type": "com.fakestoreapi.cart_painted"},
            good | {"time": "yesterday"},
            good | {"data": {"cart_id": 500, "after": cart}},
            good | {"data": {"cart_id": 500}},
        ):
            self._deliver(bad, at, dt.timedelta())
            self.health[at.date()]["rejected_events"] += 1


def thirty_days(last_day: dt.date, seed: int = 2) -> Shop:
    """Return a shop after thirty days that end on `last_day`."""
    first_day = last_day - dt.timedelta(days=DAYS - 1)
    shop = Shop(first_day, seed)
    fates = {4: "failed", 7: "incomplete", 9: "unrecorded", 13: "quarantined", 17: "rejected"}
    for number in range(DAYS):
        midnight = dt.datetime.combine(
            first_day + dt.timedelta(days=number), dt.time(), dt.UTC
        ) + dt.timedelta(microseconds=number)
        shop.change()
        shop.run_batch(midnight + dt.timedelta(hours=2), fates.get(number, "loaded"))
        for hour in (6, 12, 20):
            if number == DAYS - 1 and hour > 6:
                break
            shop.change()
            at = midnight + dt.timedelta(hours=hour)
            if (number, hour) in ((0, 6), (11, 12)):
                shop.start_cold(at)
            elif (number, hour) == (18, 20):
                shop.start_cold(at, late=5)
            elif (number, hour) == (29, 6):
                shop.start_cold(at, withheld=3)
            elif (number, hour) != (11, 6):
                shop.poll(at)
        if number in (6, 21):
            shop.deliver_rubbish(midnight + dt.timedelta(hours=21))
    shop.run_carts_batch(midnight + dt.timedelta(hours=7))
    return shop
