"""Start processes that end when this one does, and tell them to end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ingestion.project import PROJECT_FOLDER

GUARD = Path(__file__).with_name("guard.py")


class LocalGcpError(Exception):
    """The local Google Cloud cannot go on; the message is one sentence that says why."""


def spawn(
    command: Sequence[str],
    log_file: Path,
    environment: Mapping[str, str],
    output: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command under a guard; stderr, and stdout without `output`, go to the log."""
    guard = [sys.executable, "-I", "-S", str(GUARD)]
    with log_file.open("ab") as log, (output or log_file).open("ab") as stdout:
        return subprocess.Popen(
            [*guard, *command],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=log,
            cwd=PROJECT_FOLDER,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
            # Ctrl-C is for the owner, which ends the others in its own time
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


def end(process: subprocess.Popen[bytes], how: bytes = b"") -> None:
    """Tell a spawned command to end, or with KILL to die; it takes a moment."""
    if process.stdin and not process.stdin.closed:
        # a broken pipe: it has ended by itself
        with suppress(BrokenPipeError):
            process.stdin.write(how)
            process.stdin.close()


def last_line(log_file: Path) -> str:
    """Return the last line of a log that says something."""
    lines = log_file.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
