"""Processes that end when their owner does, whatever ends it, SIGKILL included.

    python local_guard.py COMMAND [ARGUMENT ...]     with a pipe as its standard input

The owner holds the other end of the pipe. When that closes, the command is terminated, and killed
when this does not help. Only the standard library: one of these starts for each server.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PROJECT_FOLDER = Path(__file__).resolve().parent
TERMINATE_SECONDS = 5.0
KILL = b"kill"
PR_SET_PDEATHSIG = 1


class LocalGcpError(Exception):
    """The local Google Cloud cannot go on; the message is one sentence that says why."""


def spawn(
    command: Sequence[str],
    log_file: Path,
    environment: Mapping[str, str],
    output: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command under a guard; stderr, and stdout without `output`, go to the log."""
    guard = [sys.executable, "-I", "-S", __file__]
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


def die_with_guard() -> None:
    """Let Linux kill the command when the guard itself is killed; other systems have no such."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_owner(command: subprocess.Popen[bytes]) -> None:
    """Wait for the end of the pipe, then end the command."""
    # not sys.stdin: its lock would be in the way of this interpreter's end
    if os.read(0, len(KILL)) == KILL:
        command.kill()
    command.terminate()
    try:
        command.wait(TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        command.kill()


def main() -> int:
    """Guard a command, and return its exit code."""
    command = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_guard if sys.platform == "linux" else None,
    )
    threading.Thread(target=end_with_owner, args=(command,), daemon=True).start()
    return command.wait()


if __name__ == "__main__":
    sys.exit(main())
