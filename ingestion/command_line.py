"""Run a script's main so that nothing on the user's side of it ends in a traceback.

A pipe whose reader has gone, a closed stdout or stderr, a name that the terminal cannot spell,
Ctrl-C: none of these is a fault of the script's.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from ingestion.settings import ConfigurationError


class _Pipe(io.FileIO):
    """A file whose reader may go away: the work matters, not who reads about it."""

    tolerated: type[OSError] = BrokenPipeError

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except self.tolerated:
            return len(data)


class _LogFile(_Pipe):
    """The log, which may also find its disk full: it is no result."""

    tolerated = OSError


def run(main: Callable[[], int]) -> NoReturn:
    """End the process with the exit code of `main`; 2 for its configuration, 1 for Ctrl-C."""
    # the script lets Ctrl-C end it at once while it is imported
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _open_standard_files()
    try:
        code = main()
        sys.stdout.flush()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again.", file=sys.stderr)
        code = 1
    except OSError as error:
        if not _is_output(error):
            raise
        print(f"stdout cannot be written: {error.strerror}.", file=sys.stderr)
        code = 1
        # or Python tries once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _is_output(error: OSError) -> bool:
    """Tell whether the result could not be written, for instance on a full disk."""
    if error.filename is not None:
        return False
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _open_standard_files() -> None:
    """Replace stdout and stderr by files that take every text, and outlive their reader."""
    # a file that is opened later must not take the number of a closed one, and with it its output
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = _standard_file(1, sys.stdout)
    sys.stderr = _standard_file(2, sys.stderr)


def _standard_file(number: int, given: TextIO | None) -> TextIO:
    if isinstance(given, io.TextIOWrapper) and given.isatty():
        given.reconfigure(errors="backslashreplace")
        return given
    encoding = given.encoding if given is not None else "utf-8"
    kind = _LogFile if number == 2 else _Pipe
    pipe = io.BufferedWriter(kind(number, "w", closefd=False))
    return io.TextIOWrapper(pipe, encoding, "backslashreplace", line_buffering=number == 2)
