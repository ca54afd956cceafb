"""Every statement that dbt sends, judged by Google's own analyser and reference evaluator.

bqemulator runs DuckDB: it tolerates what BigQuery refuses, and may compute another result.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.dbt_warehouse import PARTITION_COLUMNS, SCHEMAS, Row
from tests.support.googlesql import Column, GoogleSql, ZetaSQLError, literal

if TYPE_CHECKING:
    from tests.support.dbt_fixtures import History

pytest_plugins = ["tests.support.dbt_fixtures"]
pytestmark = pytest.mark.timeout(600)

TYPE_OF = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}
CREATED = re.compile(r"create or replace (?P<kind>table|view) `(?P<name>[^\s]+)`")
TABLE_BODY = re.compile(r"\n\s*as \(\n(?P<query>.*)\);?\s*$", re.DOTALL)
VIEW_BODY = re.compile(r"\bas\s+(?P<query>(with|select)\b.*)", re.DOTALL)
EMPTY_WINDOW = "date '0001-01-01'"


class Relation(NamedTuple):
    """A table or view that a statement makes, and the query behind it."""

    name: str
    query: str


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


def bronze_columns(table: str) -> list[Column]:
    """Return a bronze table's real columns, from Terraform's schema file."""
    fields = json.loads((SCHEMAS / f"{table}.json").read_text())
    return [Column(f["name"], TYPE_OF.get(f["type"], f["type"])) for f in fields]


def analyser_with_bronze(project_id: str) -> GoogleSql:
    """Return an analyser that knows the bronze tables and nothing else."""
    analyser = GoogleSql()
    for table in PARTITION_COLUMNS:
        analyser.add_table(f"{project_id}.bronze_data.{table}", bronze_columns(table))
    return analyser


def refusals(analyser: GoogleSql, statements: list[str]) -> list[str]:
    """Analyse statements in order; return what is refused. What they make joins the catalog."""
    refused = []
    for statement in dict.fromkeys(part for s in statements for part in parts(bare(s))):
        try:
            columns = analyser.analyse(statement)
        except ZetaSQLError as error:
            refused.append(f"{error}\n{statement}")
            continue
        if relation := relation_made_by(statement):
            analyser.add_table(relation.name, columns)
    return refused


@pytest.fixture(scope="module")
def analyser(history: History) -> GoogleSql:
    """Return an analyser with bronze and all that the first run made."""
    made = analyser_with_bronze(history.warehouse.project_id)
    assert refusals(made, history.first_sql) == []
    return made


def test_bigquery_compiles_all_that_a_first_run_sends(
    history: History, analyser: GoogleSql
) -> None:
    made = [relation_made_by(bare(statement)) for statement in history.first_sql]
    names = {relation.name.split(".", 1)[1] for relation in made if relation}
    expected = {
        f"{dataset}.{table}" for dataset, tables in history.first_tables.items() for table in tables
    }
    assert names == expected


def test_bigquery_compiles_all_that_an_incremental_run_sends(
    history: History, analyser: GoogleSql
) -> None:
    statements = list(map(bare, history.incremental_sql))
    assert sum(s.startswith("begin transaction") for s in statements) == 3
    known = set(map(bare, history.first_sql))
    assert refusals(analyser, [s for s in statements if s not in known]) == []


def test_bigquery_compiles_every_data_test(history: History, analyser: GoogleSql) -> None:
    assert len(history.tests_sql) > 20
    assert refusals(analyser, list(history.tests_sql.values())) == []


@pytest.mark.parametrize(
    ("table", "good", "bad"),
    [
        ("int_cart_history", "row_number()", "list_first([1])"),
        ("int_cart_history", "published_date", "published_day"),
        ("stg_entity_runs", "quarantined_records = 0", "quarantined_records = '0'"),
        ("stg_cart_items", "safe_cast(", "try_cast("),
        ("fact_cart_items", "coalesce(valid_to, timestamp '9999-12-31')", "ifnull(valid_to, 0)"),
        ("dim_dates", "extract(isoweek from date_day)", "weekofyear(date_day)"),
    ],
)
def test_what_bigquery_refuses_is_caught(
    history: History, analyser: GoogleSql, table: str, good: str, bad: str
) -> None:
    statement = next(
        bare(statement)
        for statement in history.first_sql
        if (relation := relation_made_by(bare(statement))) and relation.name.endswith(f".{table}")
    )
    assert good in statement
    assert refusals(analyser, [statement.replace(good, bad)])


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


def test_an_incremental_run_filters_every_large_table_by_literals(history: History) -> None:
    """Bronze and the partitioned tables are read within literal dates, or not at all."""
    large = {
        "bronze_data`.`carts_events_raw": "publish_time",
        "silver_data`.`base_cart_events": "published_date",
        "silver_data`.`stg_cart_events": "published_date",
        "silver_data`.`stg_cart_days": "published_date",
        "silver_data`.`base_products": "ingested_at",
        "silver_data`.`base_users": "ingested_at",
    }
    # grows by a row per day and per run, not by records or events
    small_readers = {"kpi_cart_lifecycle", "pipeline_health", "dim_dates"}
    checked = 0
    for statement in map(bare, history.incremental_sql):
        made = CREATED.match(statement)
        if made and (made["kind"] == "view" or made["name"].split("`")[-1] in small_readers):
            continue
        for table, column in large.items():
            for reading in re.finditer(
                rf"from `[\w-]+`\.`{table}`(?: as \w+)?(?P<rest>.*?)(\n\)|$)",
                statement,
                re.DOTALL,
            ):
                assert re.search(
                    rf"where\s+(\w+\.)?{column} (between date|>= (date|timestamp)) '\d{{4}}-",
                    reading["rest"],
                ), statement
                assert EMPTY_WINDOW not in reading["rest"]
                checked += 1
    # by models, and by the queries that find the days
    assert checked >= 20


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
