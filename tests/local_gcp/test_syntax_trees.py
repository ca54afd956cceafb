"""A statement's tree is made once, a generator writes many, and nobody notices."""

from __future__ import annotations

from inspect import signature
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from bqemulator.row_access.identity import CallerIdentity
from bqemulator.sql.translator import SQLTranslator
from sqlglot import exp
from sqlglot.dialects.bigquery import BigQuery
from sqlglot.dialects.dialect import Dialect
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ErrorLevel, ParseError, UnsupportedError

from local_gcp import syntax_trees
from local_gcp.syntax_trees import (
    LOOKING,
    _kept_translation,
    _kept_trees,
    generate_with_kept,
    is_only_looked_at,
    parse,
    parse_once,
    translate_once,
    without_copies,
)

STATEMENTS = (
    "select a, count(*) as n from `p.d.t` as t inner join d.u on t.a = u.a group by a",
    "create or replace table `p`.`d`.`t` partition by day options (description = 'x') as select 1",
    "create table d.t (a int64, b string)",
    "create or replace view `p`.`d`.`v` as (with x as (select * from d.t) select * from x)",
    "create schema if not exists `p`.`d`",
    "drop table if exists `p`.`d`.`t` cascade",
    "drop schema d cascade",
    "insert into d.t (a) select a from d.u where a > 1",
    "delete from `p`.`d`.`t` where day between date '2026-01-01' and date '2026-01-02'",
    "merge into d.t as t using d.u as u on t.a = u.a when matched then update set t.b = u.b",
)
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


@pytest.mark.parametrize(("module", "name"), LOOKING, ids=[name for _, name in LOOKING])
def test_who_only_looks_at_a_tree_gets_the_kept_one_and_leaves_it_as_it_was(
    module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dialect, "parse", parse_once)
    no_table = SimpleNamespace(catalog=SimpleNamespace(get_table=lambda *_: None))
    known = {"project_id": "p", "default_project": "p", "ctx": no_table, **vars(no_table)}
    look = without_copies(getattr(module, name))
    names = signature(look).parameters.keys() & known.keys()
    _kept_trees.cache_clear()
    for sql in STATEMENTS:
        look(bq_sql=sql, **{name: known[name] for name in names})
        assert _kept_trees(BigQuery, sql) == parse(BigQuery(), sql)
    assert _kept_trees.cache_info().misses == len(STATEMENTS)
    assert not is_only_looked_at.get()


def test_options_and_errors_are_those_of_the_parser(parsed: list[tuple[str, str]]) -> None:
    for _ in range(2):
        with pytest.raises(ParseError):
            parse_once(BigQuery(), "select from from")
        assert parse_once(BigQuery(), "select 1; ;")[-1] is None
        parse_once(BigQuery(), "select 3", error_level=None)
        parse_once(BigQuery(), "select 4", error_level=ErrorLevel.RAISE)
    assert [sql for _, sql in parsed].count("select 3") == 1
    assert [sql for _, sql in parsed].count("select 4") == 2


NESTED = "select * from (select 1 as a) cross join unnest([struct(2 as b)])"


@pytest.mark.parametrize("options", [{}, {"pretty": False}, {"pretty": True}])
@pytest.mark.parametrize("sql", [SQL.partition(";")[0], NESTED, "select cast('1' as numeric)"])
def test_a_statement_is_written_as_by_a_new_generator(sql: str, options: dict[str, bool]) -> None:
    for _ in range(2):
        for dialect in (DuckDB(), BigQuery()):
            tree = Dialect.parse(BigQuery(), sql)[0]
            expected = Dialect.generate(dialect, tree, **options)
            assert generate_with_kept(dialect, tree, **options) == expected


def test_a_generator_that_is_at_work_or_failed_is_not_used_again() -> None:
    made = []

    class Writer:
        def generate(self, tree: str, copy: bool) -> str:
            if tree == "bad":
                raise UnsupportedError
            return f"({generate_with_kept(Nesting(), tree[1:])})" if tree else ""

    class Nesting:
        settings: ClassVar[dict[str, str]] = {}

        def generator(self) -> Writer:
            made.append(Writer())
            return made[-1]

    for _ in range(3):
        assert generate_with_kept(Nesting(), "ab") == "(())"
    assert len(made) == 3
    for _ in range(3):
        with pytest.raises(UnsupportedError):
            generate_with_kept(Nesting(), "bad")
    assert generate_with_kept(Nesting(), "") == ""
    assert len(made) == 4


def test_a_statement_is_translated_once_for_what_its_tables_and_its_caller_are() -> None:
    translator = SQLTranslator()
    sql = "select avg(price) as a, session_user() as u from x"
    ann, bob = CallerIdentity("user:ann@x.org"), CallerIdentity("user:bob@x.org")
    schemas = ({"x": {"price": "DECIMAL(38, 9)"}}, {"x": {"price": "DOUBLE"}}, None)
    _kept_translation.cache_clear()
    for _ in range(2):
        for schema in schemas:
            for caller in (ann, bob, None):
                expected = SQLTranslator.translate(translator, sql, schema=schema, caller=caller)
                assert translate_once(translator, sql, schema=schema, caller=caller) == expected
    assert _kept_translation.cache_info().hits == _kept_translation.cache_info().misses == 9
