"""Keep the syntax trees of the last statements: bqemulator parses each some sixteen times over.

Most of its CPU went there. A copy of a tree costs a third of parsing, and the caller may change it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlglot.dialects.dialect import Dialect

# a statement is rewritten in a few steps, each of which is a text of its own
TREES_KEPT = 64

parse = Dialect.parse


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
    if options or dialect.settings:
        return parse(dialect, sql, **options)
    return [tree.copy() if tree else None for tree in _kept_trees(type(dialect), sql)]
