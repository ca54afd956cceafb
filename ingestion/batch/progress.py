"""What is being done just now: bars on a terminal, else lines in the log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ingestion.batch.summary import STATUSES

# (entity, what is being done, bytes read since the last call)
Progress = Callable[[str, str, int], None]

log = logging.getLogger(__name__)


@contextmanager
def showing_progress(names: Sequence[str]) -> Iterator[Progress]:
    """Yield the function to call with each step of each entity."""
    if sys.stderr.isatty():
        with _bars(names) as progress:
            yield progress
    else:
        yield _log_lines()


def _log_lines() -> Progress:
    steps: dict[str, str] = {}

    def log_step(name: str, step: str, size: int) -> None:
        if step not in STATUSES and steps.get(name) != step:
            steps[name] = step
            log.info("%s entity=%s", step, name)

    return log_step


@contextmanager
def _bars(names: Sequence[str]) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(pulse_style="cyan"),
        DownloadColumn(),
        TextColumn("{task.fields[step]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {name: bars.add_task(name, total=None, step="waiting") for name in names}

        def advance(name: str, step: str, size: int) -> None:
            bars.update(tasks[name], advance=size, step=step)
            if step in STATUSES:
                size_read = bars.tasks[tasks[name]].completed or 1
                bars.update(tasks[name], total=size_read, completed=size_read)

        yield advance
