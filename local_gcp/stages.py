"""Runs the pipeline's stages on a local Google Cloud, and shows which is at work and how far."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from local_gcp.processes import LocalGcpError, last_line, spawn
from local_gcp.resources import BRONZE_DATASET
from local_gcp.servers import LocalGcp

STAGE_SECONDS = 600.0
QUERY_SECONDS = 30.0
LOOK_SECONDS = 0.1


@dataclass
class Step:
    """One thing that the demo does: how far it is, and how it ended."""

    show_progress: Callable[[int, int | None], None]
    result: str = ""


@dataclass
class Stages:
    """The stages' processes on a local Google Cloud, and the terminal that shows them."""

    gcp: LocalGcp
    console: Console
    steps: int
    steps_done: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @contextmanager
    def step(self, what: str) -> Iterator[Step]:
        """Show on a terminal that something is at work, and then in one line how it went."""
        began = time.monotonic()
        self.steps_done += 1
        columns = (
            TextColumn(f"{self.steps_done:2} of {self.steps}  {what:<42}"),
            BarColumn(20),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
        )
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as bar:
            task = bar.add_task(what, total=None, done="")

            def show_progress(done: int, total: int | None) -> None:
                shown = f"{done}/{total}" if total else ""
                bar.update(task, completed=done, total=total, done=shown)

            step = Step(show_progress)
            yield step
        self.say(f"{time.monotonic() - began:5.1f} s  {what:<42} {step.result}".rstrip())

    def say(self, line: str = "") -> None:
        """Print a line as it is: whole, so that a path in it can be copied."""
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    @property
    def bronze_is_ready(self) -> Path:
        """The file that tells dbt to build."""
        return self.gcp.root / "bronze_is_ready"

    @property
    def environment(self) -> dict[str, str]:
        """What a stage finds in its environment."""
        # so that two demos do not meet
        dbt = self.gcp.root / "dbt"
        return {
            **self.gcp.environment,
            "DBT_TARGET_PATH": str(dbt / "target"),
            "DBT_LOG_PATH": str(dbt / "logs"),
            "DBT_USE_COLORS": "false",
            # the carts' state is to lie in files that one can look at
            "STATE_BUCKET_NAME": "",
        }

    def launch(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a stage; it ends with this process, if not before."""
        printed = self.gcp.root / "logs" / f"{name}.out"
        log = self.gcp.log_file(name)
        process = spawn([sys.executable, *command], log, self.environment, printed)
        self.processes.append(process)
        return process

    def finish(
        self, name: str, process: subprocess.Popen[bytes], look: Callable[[str], None] | None = None
    ) -> str:
        """Wait for a stage and return what it printed; `look` sees that while it grows.

        Raises LocalGcpError where the stage does not succeed.
        """
        printed = self.gcp.root / "logs" / f"{name}.out"
        # dbt says on stdout what went wrong
        log = printed if name == "dbt" else self.gcp.log_file(name)
        deadline = time.monotonic() + STAGE_SECONDS
        while process.poll() is None:
            self.gcp.check()
            if time.monotonic() > deadline:
                raise LocalGcpError(f"{name} did not end; its log is {log}.")
            if look:
                look(printed.read_text(encoding="utf-8"))
            time.sleep(LOOK_SECONDS)
        if process.returncode:
            raise LocalGcpError(
                f"{name} ended with exit code {process.returncode} ({last_line(log)}); its log is "
                f"{log}."
            )
        return printed.read_text(encoding="utf-8")

    def rows(self, sql: str) -> list[Mapping[str, Any]]:
        """Return the rows of a query, through BigQuery's client."""
        bounds: dict[str, Any] = {"timeout": QUERY_SECONDS, "retry": None, "job_retry": None}
        result = self.gcp.clients.bigquery.query(sql, **bounds)
        return [dict(row) for row in result.result(timeout=QUERY_SECONDS)]

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        return int(self.rows(f"select count(*) as n from {table}")[0]["n"])  # noqa: S608

    def await_events(
        self, number: int, watched: subprocess.Popen[bytes], look: Callable[[int, int | None], None]
    ) -> None:
        """Wait until so many events have arrived in bronze, sent by the stage that is watched."""
        deadline = time.monotonic() + STAGE_SECONDS
        while (arrived := self.count(f"{BRONZE_DATASET}.carts_events_raw")) < number:
            look(arrived, number)
            self.gcp.check()
            if watched.poll() is not None:
                self.finish("near_realtime_ingestion_2", watched)
            if time.monotonic() > deadline:
                raise LocalGcpError(
                    f"Only {arrived} of {number} events reached bronze; the logs are in "
                    f"{self.gcp.root / 'logs'}."
                )
            time.sleep(LOOK_SECONDS)
