"""Run bqemulator, the local BigQuery, as strict as BigQuery on what this pipeline relies on.

bqemulator 1.4.0 accepts loads that BigQuery refuses, so a wrong pipeline could pass on it. Closed:

    a job id used again                  409, as BigQuery answers
    a field that the table has not       the load fails, unless ignore_unknown_values is given
    a line that is no object             the load fails
    a REQUIRED column that is missing    the load fails (top level only)
    a file that does not exist           the load fails
    a load that fails half-way           leaves the table as it was, over all files
    output_rows, input_files             those of the job, not of the table
    table$20261122 with WRITE_TRUNCATE   replaces that partition
    cast(x as numeric)                   keeps 9 decimals
    safe_cast(x as timestamp)            NULL for what BigQuery cannot read: a seventh decimal, an
                                         offset beyond 14 hours, a moment outside years 1 to 9999

Each one replaces a function inside bqemulator, which is why its version is pinned; a test shows
each. DuckDB's spatial extension comes from its package, not from the network or from $HOME, and
a statement is parsed and translated once, not again for each of bqemulator's rewritings.
"""

from __future__ import annotations

import argparse
import glob
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import bqemulator.api.routes.jobs as job_routes
import duckdb
from bqemulator.config import LogLevel, Settings
from bqemulator.domain.errors import NotFoundError, ResourceRef, resource_already_exists
from bqemulator.jobs import executor
from bqemulator.scripting import interpreter
from bqemulator.server import run_forever
from bqemulator.sql.translator import SQLTranslator
from bqemulator.storage.engine import DuckDBEngine
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.dialects.duckdb import DuckDB

from ingestion.arguments import Parser, port
from local_gcp.syntax_trees import (
    LOOKING,
    generate_with_kept,
    parse_once,
    rewrite_table_refs_once,
    translate_once,
    without_copies,
)

# length of a partition decorator -> how DuckDB writes the partition of a time
PARTITION_FORMATS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H"}

# https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#timestamp_type
TIMESTAMP = (
    r"\d{4}-\d{1,2}-\d{1,2}([ Tt]\d{1,2}:\d{1,2}:\d{1,2}(\.\d{1,6})?"
    r"([Zz]|[+-](0?\d|1[0-3])(:\d{1,2})?|[+-]14(:00?)?| [A-Za-z_]+(/[A-Za-z_]+)*)?)?"
)
FIRST_MOMENT = "TIMESTAMPTZ '0001-01-01 00:00:00+00'"
MOMENT_AFTER_LAST = "TIMESTAMPTZ '10000-01-01 00:00:00+00'"

TOO_MANY_ERRORS = "JSON table encountered too many errors, giving up."

# what is replaced below, and called from the replacement
insert_load_job = job_routes._handle_load_job_with_async_envelope
insert_query_job = job_routes._handle_query_job
execute_load_job = executor.execute_load_job
apply_write_disposition = executor._apply_load_write_disposition
load_file = executor._load_path_into_target
count_rows_after_load = executor._refresh_load_row_count
duckdb_type_name = DuckDB.Generator.TRANSFORMS[exp.DataType]
duckdb_safe_cast = DuckDB.Generator.trycast_sql


@dataclass
class Load:
    """What the steps of the load job in hand have to know of each other."""

    partition: str = ""
    rows_kept: int = 0
    files: int = 0
    file_bytes: int = 0


current_load: ContextVar[Load] = ContextVar("current_load")


def refuse_known_job_id(project_id: str, job_id: str, context: Any) -> None:
    """Raise 409 where the project has a job of this id, done or failed."""
    if context.catalog.get_job(project_id, job_id) is not None:
        raise resource_already_exists(ResourceRef("job", project_id, job_id))


async def insert_load_job_once(project_id: str, job_id: str, config: Any, context: Any) -> Any:
    """Take a load job whose id is new."""
    refuse_known_job_id(project_id, job_id, context)
    return await insert_load_job(project_id, job_id, config, context)


async def insert_query_job_once(project_id: str, job_id: str, config: Any, **options: Any) -> Any:
    """Take a query job whose id is new; a dry run leaves no job behind."""
    if not options["dry_run"]:
        refuse_known_job_id(project_id, job_id, options["ctx"])
    return await insert_query_job(project_id, job_id, config, **options)


async def execute_load_job_exactly(project_id: str, job_id: str, config: Any, context: Any) -> Any:
    """Run a load job, and report this job's rows and files."""
    destination = config["load"].get("destinationTable", {})
    decorated = destination.get("tableId", "")
    destination["tableId"], _, partition = decorated.partition("$")
    load = Load(partition)
    token = current_load.set(load)
    try:
        job = await execute_load_job(project_id, job_id, config, context)
    finally:
        current_load.reset(token)
        destination["tableId"] = decorated
    statistics = job.statistics["load"]
    statistics["outputRows"] = str(int(statistics["outputRows"]) - load.rows_kept)
    statistics["inputFiles"] = str(load.files)
    statistics["inputFileBytes"] = str(load.file_bytes)
    return job


def count_rows(job: Any, context: Any) -> int:
    """Return how many rows the job's table has."""
    sql = f"SELECT count(*) FROM {job.target_ref}"  # noqa: S608
    return int(context.engine.execute(sql).fetchone()[0])


def begin_load(job: Any, context: Any) -> None:
    """Open the transaction of a load, and remove what its write disposition says."""
    load = current_load.get()
    context.engine.execute("BEGIN TRANSACTION")
    try:
        if load.partition and job.write_disposition == "WRITE_TRUNCATE":
            delete_partition(job, load.partition, context)
        else:
            apply_write_disposition(job, context)
        load.rows_kept = count_rows(job, context)
    except Exception:
        context.engine.execute("ROLLBACK")
        raise


def delete_partition(job: Any, partition: str, context: Any) -> None:
    """Remove one partition of a table that is partitioned by a column."""
    table = context.catalog.get_table(job.project_id, job.dataset_id, job.table_id)
    column = table.time_partitioning.field
    context.engine.execute(
        f'DELETE FROM {job.target_ref} WHERE strftime(CAST("{column}" AS TIMESTAMP), ?) = ?',  # noqa: S608
        [PARTITION_FORMATS[len(partition)], partition],
    )


def load_file_strictly(path: str, job: Any, context: Any) -> None:
    """Load one file, or the files that a pattern names; any error undoes the whole job."""
    load = current_load.get()
    try:
        files = [Path(name) for name in glob.glob(path)]  # noqa: PTH207 - an absolute pattern
        if not files:
            raise NotFoundError(f"Not found: URI {', '.join(job.source_uris)}")
        load.files += len(files)
        load.file_bytes += sum(file.stat().st_size for file in files)
        if job.source_format in ("NEWLINE_DELIMITED_JSON", "JSON"):
            check_json_lines(path, job, context)
        load_file(path, job, context)
    except Exception:
        context.engine.execute("ROLLBACK")
        raise


def check_json_lines(path: str, job: Any, context: Any) -> None:
    """Raise ValueError, with BigQuery's words, where a line does not fit the table's schema."""

    def ask(sql: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = context.engine.execute(sql, [path]).fetchall()
        return rows

    table = context.catalog.get_table(job.project_id, job.dataset_id, job.table_id)
    fields = table.schema_.fields
    lines = "FROM read_ndjson_objects(?)"
    if ask(f"SELECT 1 {lines} WHERE json_type(json) <> 'OBJECT' LIMIT 1"):
        raise ValueError(
            f"{TOO_MANY_ERRORS} JSON parsing error: Start of array encountered without start of "
            "object."
        )
    if not job.raw_config.get("ignoreUnknownValues"):
        known = {field.name.lower() for field in fields}
        for (name,) in ask(f"SELECT DISTINCT unnest(json_keys(json)) {lines}"):
            if name.lower() not in known:
                raise ValueError(f"{TOO_MANY_ERRORS} No such field: {name}.")
    for field in fields:
        missing = f"coalesce(json_type(json, '$.\"{field.name}\"'), 'NULL') = 'NULL'"
        if field.mode == "REQUIRED" and ask(f"SELECT 1 {lines} WHERE {missing} LIMIT 1"):
            raise ValueError(f"{TOO_MANY_ERRORS} Missing required field: {field.name}.")


def commit_load(job: Any, context: Any) -> Any:
    """Close the transaction of a load, all of whose files are in."""
    context.engine.execute("COMMIT")
    return count_rows_after_load(job, context)


def load_packaged_spatial(engine: Any) -> None:
    """Load the extension that bqemulator insists on from the file in its PyPI package."""
    package = resources.files("duckdb_extension_spatial")
    file = package / "extensions" / f"v{duckdb.__version__}" / "spatial.duckdb_extension"
    quoted = str(file).replace("'", "''")
    engine.connection.execute(f"LOAD '{quoted}'")


def numeric_with_nine_decimals(generator: Any, data_type: exp.DataType) -> str:
    """Name the type of BigQuery's NUMERIC in DuckDB, whose own DECIMAL has three decimals."""
    if data_type.this == exp.DataType.Type.DECIMAL and not data_type.expressions:
        return "DECIMAL(38, 9)"
    name: str = duckdb_type_name(generator, data_type)
    return name


def safe_cast_of_readable_timestamps(generator: Any, cast: exp.TryCast) -> str:
    """Write a SAFE_CAST; one to TIMESTAMP reads what BigQuery reads, where DuckDB reads more."""
    safe_cast: str = duckdb_safe_cast(generator, cast)
    if cast.to.this not in (exp.DataType.Type.TIMESTAMPTZ, exp.DataType.Type.TIMESTAMPLTZ):
        return safe_cast
    text = f"CAST({generator.sql(cast, 'this')} AS TEXT)"
    return (
        f"CASE WHEN regexp_full_match({text}, '{TIMESTAMP}') AND {safe_cast} >= {FIRST_MOMENT} "
        f"AND {safe_cast} < {MOMENT_AFTER_LAST} THEN {safe_cast} END"
    )


def make_strict() -> None:
    """Put the replacements in place."""
    for owner, name, replacement in (
        (job_routes, "_handle_load_job_with_async_envelope", insert_load_job_once),
        (job_routes, "_handle_query_job", insert_query_job_once),
        (job_routes, "execute_load_job", execute_load_job_exactly),
        (executor, "_apply_load_write_disposition", begin_load),
        (executor, "_load_path_into_target", load_file_strictly),
        (executor, "_refresh_load_row_count", commit_load),
        (DuckDBEngine, "_load_spatial", load_packaged_spatial),
        (Dialect, "parse", parse_once),
        (Dialect, "generate", generate_with_kept),
        (SQLTranslator, "translate", translate_once),
        (executor, "rewrite_table_refs", rewrite_table_refs_once),
        (interpreter, "rewrite_table_refs", rewrite_table_refs_once),
    ):
        setattr(owner, name, replacement)
    for module, name in LOOKING:
        setattr(module, name, without_copies(getattr(module, name)))
    # sqlglot is compiled, and asks for these alone
    DuckDB.Generator.TRANSFORMS[exp.DataType] = numeric_with_nine_decimals
    DuckDB.Generator.TRANSFORMS[exp.TryCast] = safe_cast_of_readable_timestamps


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--port", type=port, default=9050, help="REST (default: %(default)s)")
    parser.add_argument("--grpc-port", type=port, default=9060, help="default: %(default)s")
    parser.add_argument(
        "--gcs-root",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder in which gs://bucket/object is the file bucket/object",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    args = build_parser().parse_args(argv)
    make_strict()
    settings = Settings(
        rest_port=args.port,
        grpc_port=args.grpc_port,
        gcs_local_root=args.gcs_root,
        # another extension, which would be downloaded
        enable_format_extensions=False,
        log_level=LogLevel.WARNING,
    )
    run_forever(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
