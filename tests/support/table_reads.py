"""Which tables a resolved statement reads, and whether each read can be pruned by partition.

BigQuery bills at least 10 MB for each table that a query references, and refuses a query on a
table with `require_partition_filter` unless a filter with constants on the partition column can
be applied at the table. It moves a filter down through subqueries, CTEs, views, joins and GROUP BY
of that column, not through window functions and LIMIT. bqemulator knows nothing of either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.support.googlesql import without_wrappers

COMPARISONS = {f"ZetaSQL:${name}" for name in ("equal", "greater", "less", "between", "in")}
COMPARISONS |= {f"ZetaSQL:${name}" for name in ("greater_or_equal", "less_or_equal", "is_null")}


class Read(NamedTuple):
    """A read of a table that no filter has bounded yet.

    `columns` are the ids of the columns, where the read's rows are now, that a filter can bound.
    """

    table: str
    columns: frozenset[int]


class Partitioned(NamedTuple):
    """A partitioned table, and the names of the columns, here or in a view, that can bound it."""

    table: str
    columns: frozenset[str]


class Catalog:
    """What the statements before have made known: views, and who needs a partition filter."""

    def __init__(self, partition_columns: dict[str, str]) -> None:
        # by the name of the table, or of a view over it
        self._must_be_bounded = {
            table: [Partitioned(table, frozenset([column]))]
            for table, column in partition_columns.items()
        }
        self._tables_behind: dict[str, set[str]] = {}

    def tables_read(self, statement: Any) -> set[str]:
        """Return the tables that BigQuery bills for a statement, those behind views included."""
        # what an INSERT writes into, it does not read
        is_insert = statement.DESCRIPTOR.name == "ResolvedInsertStmtProto"
        scans = _all_of("ResolvedTableScanProto", statement.query if is_insert else statement)
        return {
            table
            for name in {scan.table.full_name for scan in scans}
            for table in self._tables_behind.get(name, {name})
        }

    def unbounded_reads(self, statement: Any) -> list[str]:
        """Return the tables that a statement reads without a filter on their partitions.

        A view is not refused when it is made; whoever reads it must bound what it left open.
        """
        reads = [read for scan in _scans_in(statement) for read in self._reads(scan, {})]
        if statement.DESCRIPTOR.name != "ResolvedCreateViewStmtProto":
            return [read.table for read in reads]
        view = statement.parent
        name = ".".join(view.parent.name_path)
        self._tables_behind[name] = self.tables_read(statement)
        outside = {column.column.column_id: column.name for column in view.output_column_list}
        behind = [
            Partitioned(read.table, frozenset(outside[i] for i in read.columns & outside.keys()))
            for read in reads
        ]
        self._must_be_bounded[name] = [partitioned for partitioned in behind if partitioned.columns]
        return [partitioned.table for partitioned in behind if not partitioned.columns]

    def _reads(self, scan: Any, named: dict[str, Any]) -> list[Read]:
        """Return the unbounded reads of a scan; `named` has the scans of its CTEs."""
        node = without_wrappers(scan)
        kind = node.DESCRIPTOR.name.removeprefix("Resolved").removesuffix("ScanProto")
        if kind == "Table":
            return [
                Read(table, frozenset(c.column_id for c in _columns(node) if c.name in names))
                for table, names in self._must_be_bounded.get(node.table.full_name, [])
            ]
        if kind == "WithRef":
            query = named[node.with_query_name]
            renamed = _by_position(_columns(without_wrappers(query)), _columns(node))
            return [_renamed(read, renamed) for read in self._reads(query, named)]
        if kind == "With":
            named = named | {e.with_query_name: e.with_subquery for e in node.with_entry_list}
            return self._reads(node.query, named)
        if kind == "SetOperation":
            return [
                _renamed(read, _by_position(item.output_column_list, _columns(node)))
                for item in node.input_item_list
                for read in self._reads(item.scan, named)
            ]
        below = [read for inner in _scans_in(node) for read in self._reads(inner, named)]
        return _above(kind, node, below)


def _above(kind: str, node: Any, reads: list[Read]) -> list[Read]:
    """Return what a scan leaves open of the reads below it."""
    if kind == "Filter":
        return [read for read in reads if not _bounds(node.filter_expr, read.columns)]
    if kind in ("Analytic", "Limit", "LimitOffset"):
        return [Read(read.table, frozenset()) for read in reads]
    if kind == "Project":
        renamed = _plain_references(node.expr_list)
        kept = {column.column_id: column.column_id for column in _columns(node)}
        return [
            Read(read.table, read.columns & kept.keys() | _renamed(read, renamed).columns)
            for read in reads
        ]
    if kind == "Aggregate":
        return [_renamed(read, _plain_references(node.parent.group_by_list)) for read in reads]
    return reads


def _bounds(expression: Any, columns: frozenset[int]) -> bool:
    """Return whether a condition compares one of the columns with a constant."""
    node = without_wrappers(expression)
    if node.DESCRIPTOR.name != "ResolvedFunctionCallProto":
        return False
    call = node.parent
    if call.function.name == "ZetaSQL:$and":
        return any(_bounds(argument, columns) for argument in call.argument_list)
    if call.function.name not in COMPARISONS:
        return False
    arguments = [without_wrappers(argument) for argument in call.argument_list]
    rest = [argument for argument in arguments if _column_of(argument) not in columns]
    return len(rest) < len(arguments) and all(_is_constant(argument) for argument in rest)


def _is_constant(expression: Any) -> bool:
    return not any(
        next(_all_of(kind, expression), None)
        for kind in ("ResolvedColumnRefProto", "ResolvedSubqueryExprProto")
    )


def _column_of(expression: Any) -> int | None:
    """Return the id of the column that an expression is, or is the date of."""
    kind = expression.DESCRIPTOR.name
    if kind == "ResolvedColumnRefProto":
        return int(expression.column.column_id)
    if kind == "ResolvedFunctionCallProto" and expression.parent.function.name == "ZetaSQL:date":
        return _column_of(without_wrappers(expression.parent.argument_list[0]))
    return None


def _plain_references(computed: Any) -> dict[int, int]:
    """Return old id -> new id of the computed columns that only name a column."""
    found = {}
    for column in computed:
        old = _column_of(without_wrappers(column.expr))
        if old is not None:
            found[old] = int(column.column.column_id)
    return found


def _renamed(read: Read, new_ids: dict[int, int]) -> Read:
    return Read(read.table, frozenset(new_ids[i] for i in read.columns & new_ids.keys()))


def _by_position(inner: Any, outer: Any) -> dict[int, int]:
    return {i.column_id: o.column_id for i, o in zip(inner, outer, strict=True)}


def _columns(node: Any) -> Any:
    """Return the columns of a scan; they may stand in a parent message."""
    while "column_list" not in node.DESCRIPTOR.fields_by_name:
        node = node.parent
    return node.column_list


def _messages_in(message: Any) -> Iterator[Any]:
    for field, value in message.ListFields():
        if field.message_type is not None:
            yield from value if field.is_repeated else [value]


def _all_of(kind: str, message: Any) -> Iterator[Any]:
    """Yield the messages of a kind at any depth."""
    if message.DESCRIPTOR.name == kind:
        yield message
    for inner in _messages_in(message):
        yield from _all_of(kind, inner)


def _scans_in(message: Any) -> Iterator[Any]:
    """Yield the scans in a message, not those within them."""
    for inner in _messages_in(message):
        if inner.DESCRIPTOR.name == "AnyResolvedScanProto":
            yield inner
        else:
            yield from _scans_in(inner)
