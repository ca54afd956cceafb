"""The numbers that a command line may give: one spelling of what is refused, for every script."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError

# what the operating system's clocks and sockets take everywhere; about a year
MAX_SECONDS = 31_536_000.0


def seconds(text: str) -> float:
    """Return a time in seconds, above 0 and at most MAX_SECONDS."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= MAX_SECONDS:
        raise ArgumentTypeError(f"'{text}' is no number of seconds above 0 and up to a year")
    return number


def count(text: str) -> int:
    """Return a whole number from 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"'{text}' is no whole number from 1")
    return number
