"""Keep what is made of a statement: bqemulator parses one sixteen times and writes it a few times.

Most of its CPU went there. A copy of a tree costs a third of parsing, and the caller may change it;
those of bqemulator's functions that only look at a tree get no copy.
A new generator of DuckDB's SQL parses nineteen templates: more work than to write a statement.
dbt sends the same statements build after build.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any

from bqemulator.catalog import ddl_sync
from bqemulator.jobs import executor
from bqemulator.sql import inner_query
from bqemulator.sql.table_rewriter import rewrite_table_refs
from bqemulator.sql.translator import SQLTranslator
from sqlglot.dialects.dialect import Dialect
from sqlglot.helper import name_sequence

# a statement is rewritten in a few steps, each of which is a text of its own
TREES_KEPT = 64
# more than a build of the project sends
TRANSLATIONS_KEPT = 512

# functions of bqemulator's that change nothing in a tree, each where it is called from
LOOKING = (
    (executor, "_parse_for_classification"),
    (executor, "_reject_dml_on_immutable"),
    (ddl_sync, "_detect_catalog_drop"),
    (ddl_sync, "_detect_create_schema"),
    (ddl_sync, "_detect_plain_create_table"),
    (ddl_sync, "_detect_plain_create_view"),
    (ddl_sync, "_extract_ddl_metadata"),
    (inner_query, "build_catalog_schema"),
)
is_only_looked_at: ContextVar[bool] = ContextVar("is_only_looked_at", default=False)

parse = Dialect.parse
generate = Dialect.generate
translate = SQLTranslator.translate
# those that write nothing now, by dialect and options
idle_generators: defaultdict[tuple[Any, ...], list[Any]] = defaultdict(list)


@lru_cache(maxsize=TREES_KEPT)
def _kept_trees(dialect: type[Dialect], sql: str) -> list[Any]:
    trees = parse(dialect(), sql)
    for node in (node for tree in trees if tree for node in tree.walk()):
        # where it stood in the text: nobody asks, and a third of a copy's time went there
        if node._meta and node._meta.keys() <= {"line", "col", "start", "end"}:
            node._meta = None
    return trees


def parse_once(dialect: Dialect, sql: str, **options: Any) -> list[Any]:
    """Return what `Dialect.parse` returns: a tree per statement, the caller's own to change."""
    if dialect.settings or any(value is not None for value in options.values()):
        return parse(dialect, sql, **options)
    trees = _kept_trees(type(dialect), sql)
    return trees if is_only_looked_at.get() else [tree.copy() if tree else None for tree in trees]


def without_copies(look: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that changes no tree, and so needs none of its own."""

    @wraps(look)
    def look_at_kept(*arguments: Any, **options: Any) -> Any:
        token = is_only_looked_at.set(True)
        try:
            return look(*arguments, **options)
        finally:
            is_only_looked_at.reset(token)

    return look_at_kept


def generate_with_kept(dialect: Dialect, tree: Any, copy: bool = True, **options: Any) -> str:
    """Return what `Dialect.generate` returns: the statement of a tree."""
    if dialect.settings:
        return generate(dialect, tree, copy=copy, **options)
    idle = idle_generators[type(dialect), *sorted(options.items())]
    try:
        generator = idle.pop()
    except IndexError:
        generator = dialect.generator(**options)
    # all that is left of the statement before
    generator._next_name = name_sequence("_t")
    sql: str = generator.generate(tree, copy=copy)
    idle.append(generator)
    return sql


@lru_cache(maxsize=TRANSLATIONS_KEPT)
def _kept_translation(sql: str, schema: str, caller: Any) -> Any:
    return translate(SQLTranslator(), sql, schema=json.loads(schema), caller=caller)


def translate_once(
    translator: SQLTranslator, sql: str, *, schema: Any = None, caller: Any = None, **context: Any
) -> Any:
    """Return what `SQLTranslator.translate` returns: it follows from the arguments alone."""
    if context:
        return translate(translator, sql, schema=schema, caller=caller, **context)
    return _kept_translation(sql, json.dumps(schema), caller)


rewrite_table_refs_once = lru_cache(maxsize=TRANSLATIONS_KEPT)(rewrite_table_refs)
