"""Keep what is made of a statement: bqemulator parses one sixteen times and writes it a few times.

Most of its CPU went there. A copy of a tree costs a third of parsing, and the caller may change it.
A new generator of DuckDB's SQL parses nineteen templates: more work than to write a statement.
dbt sends the same statements build after build.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import lru_cache
from typing import Any

from bqemulator.sql.table_rewriter import rewrite_table_refs
from bqemulator.sql.translator import SQLTranslator
from sqlglot.dialects.dialect import Dialect
from sqlglot.helper import name_sequence

# a statement is rewritten in a few steps, each of which is a text of its own
TREES_KEPT = 64
# more than a build of the project sends
TRANSLATIONS_KEPT = 512

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
    """Return what `Dialect.parse` returns: a tree per statement, the caller's own."""
    if dialect.settings or any(value is not None for value in options.values()):
        return parse(dialect, sql, **options)
    return [tree.copy() if tree else None for tree in _kept_trees(type(dialect), sql)]


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
