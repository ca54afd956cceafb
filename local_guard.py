"""Run a command for as long as the process that started this one lives.

    python local_guard.py COMMAND [ARGUMENT ...]     with a pipe as its standard input

The other end of the pipe closes when its owner ends, whatever ended it, SIGKILL included; the
command is then terminated, and killed when that does not help. Only the standard library, and
no package of it that is slow to import: one of these starts for each server.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading

TERMINATE_SECONDS = 5.0
PR_SET_PDEATHSIG = 1


def die_with_guard() -> None:
    """Let Linux kill the command when this guard itself is killed; other systems have no such."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_owner(command: subprocess.Popen[bytes]) -> None:
    """Wait for the end of the pipe, then end the command: at once where `kill` came through it."""
    if sys.stdin.buffer.read() == b"kill":
        command.kill()
    command.terminate()
    try:
        command.wait(TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        command.kill()


def main() -> int:
    """Run the command and return its exit code."""
    command = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_guard if sys.platform == "linux" else None,
    )
    threading.Thread(target=end_with_owner, args=(command,), daemon=True).start()
    return command.wait()


if __name__ == "__main__":
    sys.exit(main())
