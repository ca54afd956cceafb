"""A statement's tree is made once, and everybody gets one of their own."""

from __future__ import annotations

from typing import Any

import pytest
from sqlglot import exp
from sqlglot.dialects.bigquery import BigQuery
from sqlglot.dialects.dialect import Dialect
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ParseError

from local_gcp import syntax_trees
from local_gcp.syntax_trees import parse_once

SQL = "select id, sum(price) as total from `a-project.gold_data.x` group by 1; select 2"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was really parsed."""
    done: list[tuple[str, str]] = []

    def parse(dialect: Dialect, sql: str, **options: Any) -> list[Any]:
        done.append((type(dialect).__name__, sql))
        return Dialect.parse(dialect, sql, **options)

    monkeypatch.setattr(syntax_trees, "parse", parse)
    syntax_trees._kept_trees.cache_clear()
    return done


def test_a_statement_is_parsed_once_a_dialect(parsed: list[tuple[str, str]]) -> None:
    for _ in range(3):
        parse_once(BigQuery(), SQL)
        parse_once(DuckDB(), "select 1")
        parse_once(BigQuery(), "select 1")
    assert parsed == [("BigQuery", SQL), ("DuckDB", "select 1"), ("BigQuery", "select 1")]


def test_a_tree_that_somebody_changes_is_theirs_alone(parsed: list[tuple[str, str]]) -> None:
    first = parse_once(BigQuery(), SQL)
    assert first == Dialect.parse(BigQuery(), SQL)
    first[0].find(exp.Column).replace(exp.column("other"))
    assert [tree.sql("duckdb") for tree in parse_once(BigQuery(), SQL)] == [
        tree.sql("duckdb") for tree in Dialect.parse(BigQuery(), SQL)
    ]
    assert len(parsed) == 1


def test_options_and_errors_are_those_of_the_parser(parsed: list[tuple[str, str]]) -> None:
    for _ in range(2):
        with pytest.raises(ParseError):
            parse_once(BigQuery(), "select from from")
        assert parse_once(BigQuery(), "select 1; ;")[-1] is None
        parse_once(BigQuery(), "select 3", error_level=None)
    assert [sql for _, sql in parsed].count("select 3") == 2
