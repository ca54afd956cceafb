"""Google's own SQL analyser and reference evaluator, set to what BigQuery accepts.

`zetasql` is Google's C++ implementation of GoogleSQL compiled to WebAssembly. It says whether
BigQuery would compile a statement, with which columns and types, and evaluates queries on small
tables. It knows no wildcard tables, no INFORMATION_SCHEMA, no max_by/min_by and no pruning.

Compiling its 28 MB of WebAssembly takes from 15 to 80 seconds; the result is kept in the virtual
environment, where later starts find it and take about two seconds.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import hashlib
import importlib.metadata
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import wasmtime
from zetasql.core import wasm_client
from zetasql.core.exceptions import ZetaSQLError
from zetasql.core.local_service import ZetaSqlLocalService
from zetasql.wasi._pb2.zetasql.local_service import local_service_pb2 as service
from zetasql.wasi._pb2.zetasql.proto import options_pb2, simple_catalog_pb2
from zetasql.wasi._pb2.zetasql.public import options_pb2 as public_options
from zetasql.wasi._pb2.zetasql.public import type_pb2

__all__ = [
    "Column",
    "GoogleSql",
    "ZetaSQLError",
    "literal",
    "output_columns",
    "without_wrappers",
]

CACHE_FOLDER = Path(sys.prefix) / "cache" / "googlesql"
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

# Released in GoogleSQL, not in BigQuery: with these on, the analyser would let through what
# BigQuery refuses.
NOT_IN_BIGQUERY = frozenset(
    [
        "AGGREGATE_FILTERING",
        "ARRAY_EQUALITY",
        "ARRAY_GREATEST_LEAST",
        "ARRAY_ORDERING",
        "BARE_ARRAY_ACCESS",
        "BRACED_PROTO_CONSTRUCTORS",
        "DML_RETURNING",
        "ENABLE_MEASURES",
        "EXTENDED_TYPES",
        "EXTRACT_FROM_PROTO",
        "FIRST_AND_LAST_N",
        "FOR_UPDATE",
        "GENERATED_COLUMNS",
        "IDENTITY_COLUMNS",
        "INSERT_ON_CONFLICT_CLAUSE",
        "JSON_TYPE_COMPARISON",
        "L1_NORM",
        "L2_NORM",
        "LATERAL_COLUMN_REFERENCES",
        "LATERAL_JOIN",
        "MANHATTAN_DISTANCE",
        "MULTILEVEL_AGGREGATION",
        "MULTIWAY_UNNEST",
        "PI_FUNCTIONS",
        "PROTO_DEFAULT_IF_NULL",
        "PROTO_EXTENSIONS_WITH_NEW",
        "PROTO_EXTENSIONS_WITH_SET",
        "PROTO_MAPS",
        "STRUCT_POSITIONAL_ACCESSOR",
        "TIMESTAMP_NANOS",
        "TIMESTAMP_PICOS",
        "TIMESTAMP_PRECISION",
        "UUID_TYPE",
    ]
)
TYPE_NAMES = {number: name.removeprefix("TYPE_") for name, number in type_pb2.TypeKind.items()}
TYPE_NAMES |= {type_pb2.TYPE_DOUBLE: "FLOAT64", type_pb2.TYPE_FLOAT: "FLOAT32"}


class Column(NamedTuple):
    """A column's name and its BigQuery type, such as `STRUCT<a INT64>`."""

    name: str
    type: str


class CachedModule:
    """Stands in for wasmtime's Module: compiles once and keeps the result on disk."""

    @staticmethod
    def from_file(engine: wasmtime.Engine, path: str) -> wasmtime.Module:
        """Return the compiled module of the WebAssembly file at `path`."""
        key = f"{importlib.metadata.version('wasmtime')} {platform.machine()} ".encode()
        digest = hashlib.sha256(key + Path(path).read_bytes()).hexdigest()[:16]
        cached = CACHE_FOLDER / f"zetasql-{digest}.cwasm"
        if not cached.exists():
            CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
            compiled = bytes(wasmtime.Module.from_file(engine, path).serialize())
            with tempfile.NamedTemporaryFile(dir=CACHE_FOLDER, delete=False) as unfinished:
                unfinished.write(compiled)
            os.replace(unfinished.name, cached)  # noqa: PTH105, two test runs may race
        return wasmtime.Module.deserialize_file(engine, str(cached))


def _address(memory: wasmtime.Memory) -> int:
    return ctypes.addressof(memory.data_ptr().contents)


def _write_bytes(self: Any, pointer: int, data: bytes) -> None:
    ctypes.memmove(_address(self.memory) + pointer, data, len(data))


def _read_bytes(self: Any, pointer: int, size: int) -> bytes:
    return ctypes.string_at(_address(self.memory) + pointer, size)


# the package compiles at every start, and copies memory byte by byte in a Python loop
wasm_client.Module = CachedModule
wasm_client.WasmClient.write_bytes = _write_bytes
wasm_client.WasmClient.read_bytes = _read_bytes


class GoogleSql:
    """A catalog of tables, against which statements are analysed and queries evaluated."""

    def __init__(self) -> None:
        self._client = ZetaSqlLocalService.get_instance().wasm_client
        everything = self._call(
            "GetLanguageOptions",
            service.LanguageOptionsRequest(maximum_features=True),
            options_pb2.LanguageOptionsProto,
        )
        off = {f"FEATURE_{name}" for name in NOT_IN_BIGQUERY}
        name_of = public_options.LanguageFeature.Name
        self._language = options_pb2.LanguageOptionsProto(
            name_resolution_mode=public_options.NAME_RESOLUTION_DEFAULT,
            product_mode=public_options.PRODUCT_EXTERNAL,
            enabled_language_features=[
                feature
                for feature in everything.enabled_language_features
                if name_of(feature) not in off
            ],
            reserved_keywords=["QUALIFY"],
        )
        self._types: dict[str, Any] = {}
        self._tables: dict[str, list[Column]] = {}
        self._rows: dict[str, Any] = {}

    def add_table(self, name: str, columns: Iterable[Column | tuple[str, str]]) -> None:
        """Put `project.dataset.table` with its columns into the catalog."""
        self._tables[name] = [Column(*column) for column in columns]

    def analyse(self, statement: str) -> list[Column]:
        """Return the columns that the statement makes; raise ZetaSQLError where it is wrong."""
        (resolved,) = self.resolve(statement)
        return output_columns(resolved)

    def resolve(self, script: str) -> Iterator[Any]:
        """Yield each statement with its names resolved; raise ZetaSQLError where one is wrong."""
        text = script.encode()
        position = 0
        while text[position:].strip(b"; \n"):
            request = service.AnalyzeRequest()
            request.parse_resume_location.input = script
            request.parse_resume_location.byte_position = position
            request.options.CopyFrom(self._options())
            request.simple_catalog.CopyFrom(self._catalog(script))
            answer = self._call("Analyze", request, service.AnalyzeResponse)
            yield without_wrappers(answer.resolved_statement)
            position = answer.resume_byte_position

    def fill(self, name: str, query: str) -> None:
        """Give a table of the catalog its rows: what `query` evaluates to, columns in order."""
        self._rows[name] = self._evaluate(query).content

    def query(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows that Google's reference implementation computes for `query`."""
        answer = self._evaluate(query)
        types = [column.type for column in answer.prepared.columns]
        return [
            tuple(_value(cell, kind) for cell, kind in zip(row.cell, types, strict=True))
            for row in answer.content.table_data.row
        ]

    def _call(self, function: str, request: Any, response: Any) -> Any:
        return self._client.call_grpc_func(f"ZetaSqlLocalService_{function}", request, response)

    def _options(self) -> Any:
        return options_pb2.AnalyzerOptionsProto(
            language_options=self._language,
            default_timezone="UTC",
            error_message_mode=public_options.ERROR_MESSAGE_ONE_LINE,
            prune_unused_columns=False,
        )

    def _type(self, name: str) -> Any:
        """Return the type's proto: the analyser itself reads BigQuery's type names."""
        if name not in self._types:
            request = service.AnalyzeRequest(sql_statement=f"select cast(null as {name}) as x")
            request.options.CopyFrom(self._options())
            request.simple_catalog.builtin_function_options.language_options.CopyFrom(
                self._language
            )
            answer = self._call("Analyze", request, service.AnalyzeResponse)
            query = answer.resolved_statement.resolved_query_stmt_node
            self._types[name] = query.output_column_list[0].column.type
        return self._types[name]

    def _new_catalog(self) -> Any:
        catalog = simple_catalog_pb2.SimpleCatalogProto(name="root")
        catalog.builtin_function_options.language_options.CopyFrom(self._language)
        return catalog

    def _catalog(self, statement: str) -> Any:
        """Return the tables that the statement names: the catalog goes with every call."""
        root = self._new_catalog()
        nested: dict[tuple[str, ...], Any] = {(): root}
        for full_name, columns in self._tables.items():
            project, dataset, table = full_name.split(".")
            if table not in statement:
                continue
            for path in ((project,), (project, dataset)):
                if path not in nested:
                    nested[path] = nested[path[:-1]].catalog.add(name=path[-1])
            entry = nested[project, dataset].table.add(
                name=table, full_name=full_name, name_in_catalog=table
            )
            for column in columns:
                entry.column.add(name=column.name, is_writable_column=True).type.CopyFrom(
                    self._type(column.type)
                )
        return root

    def _evaluate(self, query: str) -> Any:
        """Evaluate `query`; the evaluator takes rows for tables at the catalog's root only."""
        request = service.EvaluateQueryRequest()
        request.options.CopyFrom(self._options())
        request.simple_catalog.CopyFrom(self._new_catalog())
        for full_name, columns in self._tables.items():
            quoted = "`" + full_name.replace(".", "`.`") + "`"
            if quoted not in query:
                continue
            if full_name not in self._rows:
                raise ValueError(f"{full_name} has no rows: fill it first")
            bare = full_name.replace(".", "__").replace("-", "_")
            query = query.replace(quoted, f"`{bare}`")
            entry = request.simple_catalog.table.add(name=bare, full_name=bare)
            for column in columns:
                entry.column.add(name=column.name).type.CopyFrom(self._type(column.type))
            request.table_content[bare].CopyFrom(self._rows[full_name])
        request.sql = query
        return self._call("EvaluateQuery", request, service.EvaluateQueryResponse)


def without_wrappers(node: Any) -> Any:
    """Return the resolved node in a message that holds one node of several kinds."""
    while "node" in node.DESCRIPTOR.oneofs_by_name and node.WhichOneof("node"):
        node = getattr(node, node.WhichOneof("node"))
    return node


def output_columns(node: Any) -> list[Column]:
    """Return a resolved statement's output columns; they may stand in a parent message."""
    fields = node.DESCRIPTOR.fields_by_name
    if "column_definition_list" in fields and node.column_definition_list:
        return [Column(c.name, _type_name(c.type)) for c in node.column_definition_list]
    if "output_column_list" in fields and node.output_column_list:
        return [Column(c.name, _type_name(c.column.type)) for c in node.output_column_list]
    return output_columns(node.parent) if "parent" in fields else []


def _type_name(kind: Any) -> str:
    if kind.HasField("array_type"):
        return f"ARRAY<{_type_name(kind.array_type.element_type)}>"
    if kind.HasField("struct_type"):
        members = (f"{m.field_name} {_type_name(m.field_type)}" for m in kind.struct_type.field)
        return f"STRUCT<{', '.join(members)}>"
    return TYPE_NAMES[kind.type_kind]


def _value(cell: Any, kind: Any) -> Any:
    """Return the Python value that Google's BigQuery client would give for the cell."""
    which = cell.WhichOneof("value")
    if which is None:
        return None
    raw = getattr(cell, which)
    if which == "array_value":
        return [_value(element, kind.array_type.element_type) for element in raw.element]
    if which == "struct_value":
        members = zip(kind.struct_type.field, raw.field, strict=True)
        return {member.field_name: _value(value, member.field_type) for member, value in members}
    if which == "timestamp_value":
        return EPOCH + dt.timedelta(seconds=raw.seconds, microseconds=raw.nanos // 1000)
    if which == "date_value":
        return EPOCH.date() + dt.timedelta(days=raw)
    if which == "numeric_value":
        return Decimal(int.from_bytes(raw, "little", signed=True)).scaleb(-9)
    return raw


def literal(value: Any, type_name: str) -> str:
    """Return `value`, as the BigQuery client gives it, as a GoogleSQL literal of the type."""
    if value is None:
        return f"cast(null as {type_name})"
    if type_name in ("STRING", "JSON"):
        escaped = re.sub(r"[\\']", r"\\\g<0>", value).replace("\n", "\\n").replace("\r", "\\r")
        return f"{'json ' if type_name == 'JSON' else ''}'{escaped}'"
    if type_name in ("NUMERIC", "DATE"):
        return f"{type_name} '{value}'"
    if type_name == "TIMESTAMP":
        return f"timestamp '{value:%Y-%m-%d %H:%M:%S.%f}+00'"
    return str(value).lower()
