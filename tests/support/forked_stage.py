"""A stage in processes that are forked from one which has imported everything.

They are real processes, which SIGKILL and SIGSTOP hit as any other, and they start in a tenth of
the time that Google's libraries need: hundreds of kills cost minutes instead of an hour.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

# on loopback something answers, however busy the machine is
CALL_SECONDS = 120.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.forked_stage_imports"])


def _run(
    name: str, argv: list[str], environment: dict[str, str], output: str, clock_days: float
) -> None:
    """Be the stage; in the child."""
    os.environ.clear()
    os.environ.update(environment)
    for stream, ending in ((1, ".out"), (2, ".log")):
        file = os.open(output + ending, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
    from ingestion import source
    from ingestion.carts import bucket_replica, publisher

    stage = import_module(name)
    bucket_replica.CALL_SECONDS = publisher.CALL_SECONDS = CALL_SECONDS
    if clock_days:
        source.datetime = stage.datetime = _wrong_clock(clock_days)
    code = stage.main(argv)
    sys.stdout.flush()
    os._exit(code)


def _wrong_clock(days: float) -> type[datetime]:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(days=days)

    return Wrong


@dataclass(eq=False)
class ForkedStage:
    """A stage that runs, or has run."""

    process: Any
    output: str

    @property
    def pid(self) -> int:
        pid: int = self.process.pid
        return pid

    def is_alive(self) -> bool:
        alive: bool = self.process.is_alive()
        return alive

    def end(self, seconds: float = 300.0) -> int:
        """Wait for its end, and return its exit code; minus N where signal N ended it."""
        self.process.join(seconds)
        assert not self.is_alive(), self.log()
        code: int = self.process.exitcode
        return code

    def log(self) -> str:
        file = Path(self.output + ".log")
        return file.read_text() if file.exists() else ""

    def summary(self) -> dict[str, Any]:
        return dict(json.loads(Path(self.output + ".out").read_text() or "{}"))


def start_forked(
    stage: ModuleType,
    argv: list[str],
    environment: dict[str, str],
    output: Path,
    clock_days: float = 0,
) -> ForkedStage:
    """Start a stage with these arguments; the near-real-time one may be so many days ahead.

    `output` is where its streams go, without ending.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    # the process that it is forked from has the environment of the first test that needed it
    arguments = (stage.__name__, argv, {**os.environ, **environment}, str(output), clock_days)
    process = _context.Process(target=_run, args=arguments)
    process.start()
    return ForkedStage(process, str(output))
