"""dbt's target `bigquery` with bqemulator behind it: what Google would be asked can be recorded.

The profile is the project's own, with another address and a token in place of credentials, so dbt
writes what it writes for BigQuery. bqemulator cannot read the column list of CREATE TABLE ... AS,
in which a contract puts types, NOT NULL and keys: it is recorded whole, and cut for the emulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import yaml
from dbt.adapters.bigquery.connections import BigQueryConnectionManager
from sqlglot.dialects.bigquery import BigQuery
from sqlglot.tokens import TokenType

# dbt puts each part of a name into backticks
NAME = (TokenType.IDENTIFIER, TokenType.DOT)


class Job(NamedTuple):
    """A query job as dbt asks for it."""

    sql: str
    maximum_bytes_billed: int | None


send = BigQueryConnectionManager._query_and_results


def write_profile(project: Path, folder: Path, endpoint: str) -> None:
    """Write the profile of the dbt project at `project` into `folder`, aimed at `endpoint`."""
    profile = yaml.safe_load((project / "profiles.yml").read_text())
    profile["ey_test_tech"]["outputs"]["bigquery"] |= {
        "method": "oauth-secrets",
        "token": "local",
        "api_endpoint": endpoint,
        # one request at a time, and the statements in one order
        "threads": 1,
        "job_retries": 0,
    }
    (folder / "profiles.yml").write_text(yaml.safe_dump(profile))


def without_column_list(statement: str) -> str:
    """Return a CREATE TABLE without the columns that stand after its name, another as it is."""
    tokens = BigQuery.Tokenizer().tokenize(statement)
    kinds = [token.token_type for token in tokens]
    if TokenType.CREATE not in kinds[:1] or TokenType.TABLE not in kinds[:5]:
        return statement
    first = kinds.index(TokenType.TABLE) + 1
    while kinds[first] in NAME:
        first += 1
    if kinds[first] != TokenType.L_PAREN:
        return statement
    depth = 0
    for token in tokens[first:]:
        depth += (token.token_type == TokenType.L_PAREN) - (token.token_type == TokenType.R_PAREN)
        if depth == 0:
            return statement[: tokens[first].start] + statement[token.end + 1 :]
    raise ValueError(f"the column list does not end: {statement}")


@contextmanager
def recorded_jobs(before_statement: Callable[[str], None]) -> Iterator[list[Job]]:
    """Yield the list to which each job is added that dbt asks for while the context lasts.

    What is sent, after `before_statement` was called with it, is what bqemulator reads of it.
    """
    jobs: list[Job] = []

    def send_cut(
        self: Any, connection: Any, sql: str, parameters: dict[str, Any], *others: Any, **named: Any
    ) -> Any:
        before_statement(sql)
        jobs.append(Job(sql, parameters.get("maximum_bytes_billed")))
        return send(self, connection, without_column_list(sql), parameters, *others, **named)

    with patch.object(BigQueryConnectionManager, "_query_and_results", send_cut):
        yield jobs
