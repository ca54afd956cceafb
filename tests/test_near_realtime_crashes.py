"""The stage killed at every durable step it takes, on random histories; nothing lost or doubled."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from cart_histories import (
    KILLED,
    CartsSource,
    carts_source,
    check_guarantees,
    outbox,
    published,
    run_stage,
)

from durable_files import STEPS

# those that a poll takes without Pub/Sub, bad records and dead letters
LOCAL_STEPS = [step for step in STEPS if step.partition("-")[0] in {"batch", "state", "published"}]
LAST_POLL_STEPS = [step for step in STEPS if step.startswith("last_poll")]


@pytest.fixture
def source() -> Iterator[CartsSource]:
    with carts_source() as started:
        for cart_id in range(1, 6):
            started.put(cart_id, (cart_id, 1), (1, 2))
        yield started


def crash_on_random_histories(
    folder: Path,
    source: CartsSource,
    dice: random.Random,
    steps: list[str],
    kills: int,
    **run: object,
) -> None:
    """Kill run after run, the store changing in between, until `kills` have hit; then finish."""
    killed = 0
    while killed < kills:
        source.mutate(dice)
        done = run_stage(
            folder,
            source.url,
            "--once",
            "--local-only",
            "--accept-deletes",
            env={"FAILPOINT": f"{dice.choice(steps)}:{dice.choice((1, 1, 2))}"},
        )
        assert done.code in (0, KILLED), done.log
        killed += done.code == KILLED
    done = run_stage(folder, source.url, "--once", "--local-only", "--accept-deletes")
    assert done.code == 0, done.log
    assert outbox(folder) == []
    check_guarantees(published(folder), source)


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_steps_it_loses_and_doubles_nothing(
    tmp_path: Path, source: CartsSource, seed: int
) -> None:
    crash_on_random_histories(tmp_path, source, random.Random(seed), LOCAL_STEPS, kills=8)


@pytest.mark.parametrize("step", LOCAL_STEPS)
def test_a_cold_start_killed_at_any_step_ends_as_one_whole_snapshot(
    tmp_path: Path, source: CartsSource, step: str
) -> None:
    killed = run_stage(tmp_path, source.url, "--once", "--local-only", env={"FAILPOINT": step})
    assert killed.code == KILLED
    source.put(1, (9, 9))
    del source.carts[2]
    source.put(8, (8, 8))
    done = run_stage(tmp_path, source.url, "--once", "--local-only")
    assert done.code == 0, done.log
    check_guarantees(published(tmp_path), source)
