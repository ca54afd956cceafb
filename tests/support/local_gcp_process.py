"""python -m local_gcp as a process, with a way to find every process that comes from it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ingestion.project import PROJECT_FOLDER

MARK = "LOCAL_GCP_TEST"


def until(condition: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Wait for something to be so, and return what made it so."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return found


class Started:
    """A python -m local_gcp in a process of its own, whose descendants can be found."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.mark = str(uuid.uuid4())
        self.out = folder / f"{self.mark}.out"
        self.err = folder / f"{self.mark}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "local_gcp", *arguments, "--folder", str(folder / "gcp")],
                cwd=PROJECT_FOLDER,
                stdout=out,
                stderr=err,
                env={**os.environ, **environment, MARK: self.mark},
            )

    def descendants(self) -> list[int]:
        """Return the processes that carry this one's mark, itself apart."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and int(folder.name) != self.process.pid:
                try:
                    if self.mark.encode() in (folder / "environ").read_bytes():
                        found.append(int(folder.name))
                except OSError:
                    continue
        return found

    def ready(self) -> dict[str, str]:
        """Wait for `ready`, and return what was exported."""
        until(lambda: self.out.read_text().endswith("ready\n") or self.process.poll() is not None)
        assert self.process.poll() is None, self.err.read_text()
        exports = re.findall(r"^export (\w+)=(.*)$", self.out.read_text(), re.M)
        # quoted for a shell
        return {name: "".join(shlex.split(value)) for name, value in exports}

    def close(self) -> None:
        """End it, whatever the test did."""
        self.process.kill()
        self.process.wait()
        until(lambda: not self.descendants())
