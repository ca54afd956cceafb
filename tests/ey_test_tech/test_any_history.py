"""Random histories, taken in slices by dbt runs that overlap: gold is that of a full refresh.

Each history is a random shop (lost states, deletions, several batch runs a day, runs that fail,
duplicates, rubbish) of which every row reaches bronze late by up to thirty days, and some never
do. After a last build gold has to equal a full refresh of the same bronze, or that build is red.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable

import pytest

from tests.support.dbt_warehouse import DbtError, Row, Warehouse, comparable, today
from tests.support.shop_history import Delivery, Shop

pytest_plugins = ["tests.support.dbt_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DAYS = 45
FATES = (
    "loaded",
    "loaded",
    "loaded",
    "failed",
    "incomplete",
    "unrecorded",
    "quarantined",
    "rejected",
)


def random_shop(dice: random.Random) -> Shop:
    """Return a shop after DAYS days that end today."""
    shop = Shop(today() - dt.timedelta(days=DAYS - 1), dice.randrange(1000))
    for number in range(DAYS - 1):
        midnight = dt.datetime.combine(
            shop.first_day + dt.timedelta(days=number), dt.time(), dt.UTC
        ) + dt.timedelta(microseconds=number)
        for hour in sorted(dice.sample(range(1, 9), k=dice.randrange(3))):
            shop.run_batch(midnight + dt.timedelta(hours=hour), dice.choice(FATES))
        for hour in sorted(dice.sample(range(9, 20), k=dice.randrange(1, 4))):
            shop.change()
            at = midnight + dt.timedelta(hours=hour)
            if not shop.generation or dice.random() < 0.08:
                shop.start_cold(at, withheld=dice.choice((0, 0, 2)))
            else:
                shop.poll(at)
        if dice.random() < 0.1:
            shop.deliver_rubbish(midnight + dt.timedelta(hours=21))
    return shop


def arrival(delivery: Delivery, dice: random.Random) -> float:
    """Return the day, from the shop's first, on which bronze gets the row; late ones are many."""
    lateness = dice.choice((0, 0, 0, 0, dice.uniform(0, 3), dice.uniform(0, 30)))
    return delivery.arrived_at.timestamp() / 86400 + lateness


def in_order_of_arrival(shop: Shop, dice: random.Random) -> list[tuple[float, str, Row]]:
    """Return (day, table, row); a batch run's rows come together, its record after them.

    Entities come apart, and one delivery in fifty is lost.
    """
    late: dict[tuple[str, str], float] = {}
    arrived = []
    for delivery in shop.bronze:
        row, table = delivery.row, delivery.table
        if table == "carts_events_raw":
            if dice.random() < 0.98:
                arrived.append((arrival(delivery, dice), table, row))
            continue
        entity = row["entity"] if table == "ingestion_runs" else table.removesuffix("_raw")
        run = (entity, row["run_id"] if table == "ingestion_runs" else row["_run_id"])
        late.setdefault(run, arrival(delivery, dice))
        arrived.append((late[run] + (table == "ingestion_runs") * 1e-6, table, row))
    return sorted(arrived, key=lambda each: each[0])


@pytest.mark.parametrize("seed", range(6))
def test_gold_is_that_of_a_full_refresh_or_the_build_is_red(
    make_warehouse: Callable[[str], Warehouse], seed: int
) -> None:
    dice = random.Random(seed)
    warehouse = make_warehouse(f"any-history-{seed}")
    rows = in_order_of_arrival(random_shop(dice), dice)
    cuts = sorted(dice.sample(range(1, len(rows)), k=5))
    slices = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    for number, piece in enumerate(slices[:-1]):
        half = len(piece) // 2
        warehouse.load_all((table, row) for _, table, row in piece[:half])
        # at one of the boundaries between two statements of this dbt another one runs whole
        boundary = dice.randrange(1, 30) if number else 0
        sent = 0

        def another_dbt(_: str, piece: list = piece, boundary: int = boundary) -> None:  # type: ignore[type-arg]
            nonlocal sent
            sent += 1
            if sent == boundary:
                rest = piece[len(piece) // 2 :]
                warehouse.load_all((table, row) for _, table, row in rest)
                warehouse.other_dbt("run")

        warehouse.dbt("run", before_statement=another_dbt)
        if sent < boundary or not boundary:
            warehouse.load_all((table, row) for _, table, row in piece[half:])
    warehouse.load_all((table, row) for _, table, row in slices[-1])
    try:
        warehouse.dbt("build", "--exclude-resource-type", "unit_test")
    except DbtError as error:
        assert "full-refresh" in str(error).replace("_", "-")
        return
    gold = warehouse.tables("gold_data")
    warehouse.dbt("run", "--full-refresh")
    refreshed = warehouse.tables("gold_data")
    different = [name for name in gold if comparable(gold[name]) != comparable(refreshed[name])]
    assert different == []
