"""Processes that end when their owner does, whatever ends it, SIGKILL included.

    python local_gcp/guard.py COMMAND [ARGUMENT ...]     with a pipe as its standard input

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
from functools import partial

TERMINATE_SECONDS = 5.0
KILL = b"kill"
PR_SET_PDEATHSIG = 1


def die_with(guard: int) -> None:
    """Let Linux kill this process when the guard itself is killed; other systems have no such."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # killed before this was asked for: nobody else would ever end this process
    if os.getppid() != guard:
        os.kill(os.getpid(), signal.SIGKILL)


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
        preexec_fn=partial(die_with, os.getpid()) if sys.platform == "linux" else None,
    )
    threading.Thread(target=end_with_owner, args=(command,), daemon=True).start()
    return command.wait()


if __name__ == "__main__":
    sys.exit(main())
