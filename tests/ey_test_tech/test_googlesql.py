"""Every statement that dbt sends to BigQuery, judged by Google's own analyser and evaluator.

The statements are those of the target `bigquery`, recorded as dbt sent them: a first run, an
incremental build with data tests and unit tests, a full refresh, source freshness. bqemulator,
which answered them, runs DuckDB: it tolerates what BigQuery refuses, and may compute another
result.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.bigquery_judge import (
    BigQueryJudge,
    Verdict,
    analyser_with_bronze,
    bronze_columns,
)
from tests.support.bigquery_target import without_column_list
from tests.support.dbt_warehouse import PARTITION_COLUMNS, Row
from tests.support.googlesql import Column, literal

if TYPE_CHECKING:
    from tests.support.dbt_fixtures import History

pytest_plugins = ["tests.support.dbt_fixtures"]
pytestmark = pytest.mark.timeout(1200)

# BigQuery bills 10 MB at least for each. Lower it whenever a build needs fewer: the test below
# lists which models and tests read most.
MOST_TABLE_REFERENCES = 100

CREATED = re.compile(r"create or replace (?P<kind>table|view) `(?P<name>[^\s]+)`")
TABLE_BODY = re.compile(r"\n\s*as \(\n(?P<query>.*)\);?\s*$", re.DOTALL)
VIEW_BODY = re.compile(r"\bas\s+(?P<query>(with|select)\b.*)", re.DOTALL)
LARGE_BRONZE = PARTITION_COLUMNS.keys() - {"ingestion_runs"}
EMPTY_WINDOW = "date '0001-01-01'"


class Relation(NamedTuple):
    """A table or view that a statement makes, and the query behind it."""

    name: str
    query: str


class Verdicts(NamedTuple):
    """What BigQuery would say to the statements of each run."""

    judge: BigQueryJudge
    first: list[Verdict]
    incremental: list[Verdict]
    full_refresh: list[Verdict]
    freshness: list[Verdict]


def bare(statement: str) -> str:
    """Return a statement without the comment that dbt puts before it."""
    return re.sub(r"^\s*/\*.*?\*/", "", statement, flags=re.DOTALL).strip()


def parts(statement: str) -> list[str]:
    """Return the statements of a transaction, or the one statement."""
    if not statement.startswith("begin transaction"):
        return [statement]
    inside = [part.strip() for part in statement.split(";\n")]
    return [part for part in inside if part.split()[0] in ("delete", "insert")]


def relation_made_by(statement: str) -> Relation | None:
    """Return what a CREATE statement makes, None for another."""
    head = CREATED.match(statement)
    if head is None:
        return None
    pattern = TABLE_BODY if head["kind"] == "table" else VIEW_BODY
    body = pattern.search(statement)
    assert body is not None, statement
    query = body["query"].strip().rstrip(";").strip()
    return Relation(head["name"].replace("`", ""), query)


def large_tables(history: History) -> dict[str, str]:
    """Return the partition column of each table that grows with records and events."""
    manifest = json.loads((history.warehouse.folder / "manifest.json").read_text())
    columns = {
        f"{node['schema']}.{node['name']}": node["config"]["partition_by"]["field"]
        for node in manifest["nodes"].values()
        if node["config"].get("partition_by") and node["name"] not in ROW_PER_RUN
    }
    assert len(columns) == 2
    return columns | {f"bronze_data.{table}": PARTITION_COLUMNS[table] for table in LARGE_BRONZE}


# a row per entity and batch run
ROW_PER_RUN = {"ingestion_runs", "stg_entity_runs"}
LARGE_BRONZE = PARTITION_COLUMNS.keys() - ROW_PER_RUN


@pytest.fixture(scope="module")
def verdicts(history: History) -> Verdicts:
    """Judge all that dbt sent, in its order."""
    judge = BigQueryJudge(history.warehouse.project_id, large_tables(history))
    return Verdicts(
        judge,
        judge.judge(history.first_sql),
        judge.judge(history.incremental_sql),
        judge.judge(history.full_refresh_sql),
        judge.judge(history.freshness_sql),
    )


def of_kind(verdicts: list[Verdict], *kinds: str) -> list[Verdict]:
    """Return the verdicts on statements of models, tests, unit tests or sources."""
    return [verdict for verdict in verdicts if verdict.node_id.split(".")[0] in kinds]


def test_the_statements_are_those_of_the_target_bigquery(history: History) -> None:
    assert all('"target_name": "bigquery"' in sql for sql in history.incremental_sql)
    made = [relation_made_by(bare(statement)) for statement in history.first_sql]
    names = {relation.name.split(".", 1)[1] for relation in made if relation}
    expected = {
        f"{dataset}.{table}" for dataset, tables in history.first_tables.items() for table in tables
    }
    assert names == expected
    # fact_cart_events is a view
    with_contract = [sql for sql in history.first_sql if without_column_list(sql) != sql]
    assert len(with_contract) == len(history.first_tables["gold_data"]) - 1


@pytest.mark.parametrize("run", ["first", "incremental", "full_refresh", "freshness"])
def test_bigquery_compiles_all_that_dbt_sends(verdicts: Verdicts, run: str) -> None:
    judged = getattr(verdicts, run)
    assert judged
    assert [f"{v.node_id}: {v.refusal}\n{v.sql}" for v in judged if v.refusal] == []


def test_the_recording_has_every_kind_of_statement(verdicts: Verdicts) -> None:
    kinds = Counter(verdict.node_id.split(".")[0] for verdict in verdicts.incremental)
    assert kinds.keys() == {"model", "test", "unit_test"}
    assert len(of_kind(verdicts.freshness, "source")) == 3
    transactions = [v for v in verdicts.incremental if bare(v.sql).startswith("begin transaction")]
    assert len(transactions) == 3


def test_the_star_s_tables_have_their_primary_keys(verdicts: Verdicts) -> None:
    primary_key = re.compile(r"primary key \((\w+)\) not enforced")
    keys = {
        verdict.node_id.split(".")[-1]: primary_key.findall(verdict.sql)
        for verdict in verdicts.full_refresh
        if bare(verdict.sql).startswith("create or replace table")
    }
    assert {table: key for table, key in keys.items() if key} == {
        "dim_dates": ["date_day"],
        "dim_products": ["product_key"],
        "dim_users": ["user_key"],
        "fact_cart_items": ["cart_item_key"],
        "fact_carts": ["cart_id"],
    }


def test_a_statement_may_bill_no_more_than_the_limit(history: History) -> None:
    assert {job.maximum_bytes_billed for job in history.warehouse.jobs} == {10_000_000_000}


def test_an_incremental_build_references_few_tables(verdicts: Verdicts) -> None:
    references = Counter[str]()
    for verdict in of_kind(verdicts.incremental, "model", "test"):
        if not bare(verdict.sql).startswith("create or replace view"):  # which reads nothing yet
            references[verdict.node_id] += len(verdict.tables)
    assert sum(references.values()) <= MOST_TABLE_REFERENCES, references.most_common()


@pytest.mark.parametrize("run", ["first", "incremental", "full_refresh", "freshness"])
def test_every_read_of_a_raw_table_is_bounded_as_require_partition_filter_wants(
    verdicts: Verdicts, run: str
) -> None:
    refused = [
        f"{verdict.node_id} reads {table} without a filter on its partitions\n{verdict.sql}"
        for verdict in getattr(verdicts, run)
        for table in verdict.unbounded
        if ".bronze_data." in table
    ]
    assert refused == []


@pytest.mark.parametrize(
    ("table", "good", "bad"),
    [
        ("int_cart_history", "row_number()", "list_first([1])"),
        ("int_cart_history", "published_date", "published_day"),
        ("stg_entity_runs", "quarantined_records = 0", "quarantined_records = '0'"),
        ("stg_cart_items", "safe_cast(", "try_cast("),
        ("fact_cart_items", "coalesce(valid_to, timestamp '9999-12-31')", "ifnull(valid_to, 0)"),
        ("dim_dates", "extract(isoweek from date_day)", "weekofyear(date_day)"),
        ("kpi_totals", "carts int64 not null", "carts integr not null"),
        ("kpi_totals", "average_cart_value numeric(38, 9)", "average_cart_value date"),
    ],
)
def test_what_bigquery_refuses_is_caught(
    history: History, verdicts: Verdicts, table: str, good: str, bad: str
) -> None:
    statement = next(
        bare(statement)
        for statement in history.first_sql
        if (relation := relation_made_by(bare(statement))) and relation.name.endswith(f".{table}")
    )
    assert good in statement
    (verdict,) = verdicts.judge.judge([statement.replace(good, bad)])
    assert verdict.refusal


def rows_as_query(rows: list[Row], columns: list[Column]) -> str:
    """Return a query that gives the rows."""
    structs = [
        "struct(" + ", ".join(f"{_literal(row, c)} as `{c.name}`" for c in columns) + ")"
        for row in rows
    ]
    # the evaluator takes no array over one megabyte
    return " union all ".join(
        f"select * from unnest([{', '.join(structs[n : n + 200])}])"
        for n in range(0, len(structs), 200)
    )


def _literal(row: Row, column: Column) -> str:
    value = row[column.name]
    if column.type == "JSON" and value is not None:
        value = json.dumps(value)
    return literal(value, column.type)


def normal(value: Any) -> str:
    """Return a value as text that is equal for equal values of the two engines."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        value = json.loads(value)
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    return str(value.normalize() + 0) if hasattr(value, "normalize") else str(value)


@pytest.mark.slow
def test_google_s_evaluator_computes_what_the_emulator_computed(history: History) -> None:
    project = history.warehouse.project_id
    google = analyser_with_bronze(project)
    for table, rows in history.first_bronze.items():
        query = rows_as_query(rows, bronze_columns(table))
        google.fill(f"{project}.bronze_data.{table}", query)
    compared = 0
    for statement in map(bare, history.first_sql):
        relation = relation_made_by(statement)
        if relation is None:
            continue
        columns = google.analyse(statement)
        google.add_table(relation.name, columns)
        google.fill(relation.name, relation.query)
        _, dataset, table = relation.name.split(".")
        expected = history.first_tables[dataset][table]
        computed = google.query(f"select * from `{relation.name.replace('.', '`.`')}`")
        assert sorted([normal(value) for value in row] for row in computed) == sorted(
            [normal(row[column.name]) for column in columns] for row in expected
        ), relation.name
        compared += len(expected)
    assert compared > 2000


def test_an_incremental_run_filters_every_large_table_by_literals(verdicts: Verdicts) -> None:
    """Bronze and the partitioned tables are read within literal dates, or not at all."""
    # grows by a row per day and per run, not by records or events
    small_readers = {"kpi_cart_lifecycle", "pipeline_health", "dim_dates"}
    # a view that sums up an event's lines before a filter on its days can reach them
    views = {"fact_cart_events"}
    models = [
        verdict
        for verdict in of_kind(verdicts.incremental, "model")
        if verdict.node_id.split(".")[-1] not in small_readers | views
    ]
    assert [(v.node_id, v.unbounded, v.sql) for v in models if v.unbounded] == []


def test_a_transaction_replaces_literal_partitions_and_no_other(history: History) -> None:
    transactions = [s for s in map(bare, history.incremental_sql) if s.startswith("begin")]
    assert transactions
    for transaction in transactions:
        delete, insert = parts(transaction)
        target = delete.split()[2]
        literal_days = r"where \w+ between date '\d{4}-\d\d-\d\d' and date '\d{4}-\d\d-\d\d'"
        assert re.search(literal_days + "$", delete), delete
        assert EMPTY_WINDOW not in delete
        assert insert.startswith(f"insert into {target} (")
        assert transaction.rstrip(";").endswith("commit transaction")


def test_no_statement_merges(history: History) -> None:
    sent = map(bare, history.first_sql + history.incremental_sql)
    assert not any(re.search(r"\bmerge\b", statement) for statement in sent)
