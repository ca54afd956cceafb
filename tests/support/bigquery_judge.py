"""What BigQuery would say to statements, as far as it can be known without BigQuery."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from ingestion.project import SCHEMA_FOLDER
from tests.support.dbt_warehouse import PARTITION_COLUMNS
from tests.support.googlesql import Column, GoogleSql, ZetaSQLError, output_columns
from tests.support.table_reads import Catalog

TYPE_OF = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}
FIXTURE = re.compile(r"-- Fixture for (\w+)\n.*?\n\)", re.DOTALL)
NODE_ID = re.compile(r'"node_id": "([\w.]+)"')


class Verdict(NamedTuple):
    """What is known of one statement as sent; a script's parts are taken together.

    `tables` has each table once per part that reads it, as BigQuery bills them: a view's are those
    behind it, and making a view reads none.
    """

    node_id: str
    sql: str
    refusal: str
    tables: list[str]
    unbounded: list[str]


def bronze_columns(table: str) -> list[Column]:
    """Return a bronze table's real columns, from Terraform's schema file."""
    fields = json.loads((SCHEMA_FOLDER / f"{table}.json").read_text())
    return [Column(f["name"], TYPE_OF.get(f["type"], f["type"])) for f in fields]


def analyser_with_bronze(project_id: str) -> GoogleSql:
    """Return an analyser that knows the bronze tables and nothing else."""
    analyser = GoogleSql()
    for table in PARTITION_COLUMNS:
        analyser.add_table(f"{project_id}.bronze_data.{table}", bronze_columns(table))
    return analyser


class BigQueryJudge:
    """Reads statements in the order in which they were sent; what they make is known after."""

    def __init__(self, project_id: str, partition_columns: dict[str, str]) -> None:
        """Begin with the bronze tables; reads of `partition_columns`' tables must be bounded."""
        self.analyser = analyser_with_bronze(project_id)
        self._catalog = Catalog(
            {f"{project_id}.{table}": column for table, column in partition_columns.items()}
        )

        self._verdicts: dict[str, Verdict] = {}
        self._json_columns: dict[str, list[str]] = {}

    def judge(self, statements: list[str]) -> list[Verdict]:
        """Return a verdict on each statement; one that was sent before keeps its verdict."""
        for statement in statements:
            if statement not in self._verdicts:
                self._verdicts[statement] = self._judge(statement)
        return [self._verdicts[statement] for statement in statements]

    def _judge(self, statement: str) -> Verdict:
        node_id = NODE_ID.search(statement)
        verdict = Verdict(node_id[1] if node_id else "", statement, "", [], [])
        try:
            for resolved in self.analyser.resolve(self._with_types_of_json(statement)):
                if resolved.DESCRIPTOR.name != "ResolvedCreateViewStmtProto":
                    verdict.tables.extend(self._catalog.tables_read(resolved))
                verdict.unbounded.extend(self._catalog.unbounded_reads(resolved))
                if name := name_of_what_is_created(resolved):
                    self._json_columns[name.split(".")[-1]] = [
                        column.name for column in output_columns(resolved) if column.type == "JSON"
                    ]
                    self.analyser.add_table(name, output_columns(resolved))
        except ZetaSQLError as error:
            return verdict._replace(refusal=str(error))
        return verdict

    def _with_types_of_json(self, statement: str) -> str:
        """Return a unit test's statement with the types that BigQuery's tables have.

        dbt asks for the columns of the tables that the rows stand for, and bqemulator answers
        STRING for a JSON column that a query made.
        """

        def typed(fixture: re.Match[str]) -> str:
            rows = fixture[0]
            for column in self._json_columns.get(fixture[1], []):
                rows = rows.replace(f"as STRING) as `{column}`", f"as JSON) as `{column}`")
            return rows

        return FIXTURE.sub(typed, statement)


def name_of_what_is_created(resolved: Any) -> str | None:
    """Return the name of the table or view that a statement makes from a query."""
    if resolved.DESCRIPTOR.name not in (
        "ResolvedCreateTableAsSelectStmtProto",
        "ResolvedCreateViewStmtProto",
    ):
        return None
    return ".".join(resolved.parent.parent.name_path)
