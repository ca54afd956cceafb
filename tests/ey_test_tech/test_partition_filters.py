"""Which reads satisfy BigQuery's `require_partition_filter`, which no emulator enforces."""

from __future__ import annotations

import pytest

from tests.support.bigquery_judge import BigQueryJudge

RAW = "`p`.`bronze_data`.`raw`"
OPEN = f"""
    create view `p`.`silver_data`.`open` as
    select n, seen as t, date(seen) as day from {RAW}
    union all
    select * from (select n, seen, date(seen) from {RAW})
"""
CLOSED = f"""
    create view `p`.`silver_data`.`closed` as
    with rows_read as (select * from {RAW})
    select n from rows_read where seen > timestamp '2026-01-01'
"""
NAMES = {"raw": RAW, "open": "`p`.`silver_data`.`open`", "closed": "`p`.`silver_data`.`closed`"}
BLIND = f"create view `p`.`silver_data`.`blind` as select n from {RAW}"


@pytest.fixture(scope="module")
def judge() -> BigQueryJudge:
    """Return a judge that knows a raw table and two views."""
    made = BigQueryJudge("p", {"bronze_data.raw": "seen"})
    made.analyser.add_table("p.bronze_data.raw", [("n", "INT64"), ("seen", "TIMESTAMP")])
    assert not any(verdict.refusal or verdict.unbounded for verdict in made.judge([OPEN, CLOSED]))
    return made


@pytest.mark.parametrize(
    ("reading", "is_bounded"),
    [
        ("{raw}", False),
        ("{raw} where seen >= timestamp '2026-01-01'", True),
        ("{raw} where n = 1 and date(seen) between '2026-01-01' and '2026-01-02'", True),
        ("{raw} where seen is null", True),
        ("{raw} where n = 1 or seen >= timestamp '2026-01-01'", False),
        ("{raw} where seen >= timestamp_sub(current_timestamp(), interval 7 day)", True),
        ("{raw} where seen >= (select timestamp '2026-01-01')", False),
        ("{raw} inner join (select 1 as n) using (n) where seen > timestamp '2026-01-01'", True),
        ("(select n, seen as t from {raw}) where t > timestamp '2026-01-01'", True),
        ("(select n, seen from {raw} limit 9) where seen > timestamp '2026-01-01'", False),
        ("(select n, seen from {raw} group by n, seen) where seen > timestamp '2026-01-01'", True),
        ("(select n, max(seen) as seen from {raw} group by n) where seen > '2026-01-01'", False),
        ("(select *, lag(n) over (order by seen) from {raw}) where seen > '2026-01-01'", False),
        ("{open} where t > timestamp '2026-01-01'", True),
        ("{open} where day > date '2026-01-01'", True),
        ("{open}", False),
        ("{closed}", True),
    ],
)
def test_a_read_is_bounded_by_a_constant_that_reaches_the_table(
    judge: BigQueryJudge, reading: str, is_bounded: bool
) -> None:
    (verdict,) = judge.judge([f"select n from {reading.format(**NAMES)}"])
    assert not verdict.refusal
    assert set(verdict.unbounded) == (set() if is_bounded else {"p.bronze_data.raw"})
    assert set(verdict.tables) == {"p.bronze_data.raw"}


def test_a_view_that_hides_the_partitions_can_never_be_read(judge: BigQueryJudge) -> None:
    (verdict,) = judge.judge([BLIND])
    assert verdict.unbounded == ["p.bronze_data.raw"]


def test_a_transaction_reads_a_table_once_per_statement(judge: BigQueryJudge) -> None:
    script = f"""
        begin transaction;
        delete from {RAW} where seen > timestamp '2026-01-01';
        insert into {RAW} (n) select n from {RAW} where seen > timestamp '2026-01-01';
        commit transaction;
    """
    (verdict,) = judge.judge([script])
    assert not verdict.refusal
    assert verdict.tables == ["p.bronze_data.raw"] * 2
