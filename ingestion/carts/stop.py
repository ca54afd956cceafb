"""The first signal ends the wait and lets the work in hand settle; the second ends the process."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Cloud Run kills so long after SIGTERM
GRACE_SECONDS = 10.0
# what the end of a process takes by itself
EXIT_SECONDS = 1.0
# a wait is cut into such pieces: no signal ends a longer one on Windows
WAIT_SECONDS = 0.2


class StopRequested(Exception):  # noqa: N818 - no error
    """A signal came while the source was being asked again."""


class Stop:
    """Set by the first signal. Without a lock, because a signal may come while it would be held."""

    def __init__(self) -> None:
        self._is_set = False
        self._deadline = math.inf

    def __call__(self) -> bool:
        """Tell whether the work is to end."""
        return self._is_set

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """End the wait, or at the second signal the process: every step of it may be the last."""
        if self._is_set:
            os._exit(1)
        self._is_set = True
        self._deadline = time.monotonic() + GRACE_SECONDS - EXIT_SECONDS

    def seconds_left(self) -> float:
        """Return how long the work in hand may still take; without end before the signal."""
        return self._deadline - time.monotonic()

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or soon after the first signal."""
        end = time.monotonic() + seconds
        while not self._is_set and (rest := end - time.monotonic()) > 0:
            time.sleep(min(rest, WAIT_SECONDS))


@contextmanager
def handled_signals(stop: Stop) -> Iterator[None]:
    """Let SIGINT and SIGTERM, and Ctrl-Break on Windows, end the work in hand."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform == "win32":
        numbers.append(signal.SIGBREAK)
    before = {number: signal.signal(number, stop.on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
