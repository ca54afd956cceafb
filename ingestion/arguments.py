"""What a command line may give: one spelling of what is refused, for every script."""

from __future__ import annotations

import math
import re
from argparse import ArgumentParser, ArgumentTypeError, _ActionsContainer
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from ingestion.addresses import check_address

# what the operating system's clocks and sockets take everywhere; about a year
MAX_SECONDS = 31_536_000.0


class Parser(ArgumentParser):
    """A parser that names the flag or value which a mistyped one was probably meant to be."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one sentence."""
        close: list[str] = []
        if flag := re.search(r"unrecognized arguments: (--[^\s=]+)", message):
            close = get_close_matches(flag[1], self._option_string_actions)
        elif value := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            close = get_close_matches(value[1], value[2].replace("'", "").split(", "))
        super().error(f"{message} (did you mean {close[0]}?)" if close else message)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Refuse what is not known: a command by its own flags, and not those of its parent."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def add_json_arguments(container: _ActionsContainer, result: str) -> None:
    """Add to a parser or a group the flags that make JSON of what a script says."""
    add = container.add_argument
    add("--json", action="store_true", help=f"print {result} as JSON")
    add(
        "--log-json",
        action="store_true",
        help="log JSON with severity and fields; in Cloud Run always",
    )


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


def api_url(text: str) -> str:
    """Return the address of an API, to which paths can be added."""
    try:
        check_address(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!a} {error}") from None
    if "?" in text or "#" in text:
        raise ArgumentTypeError(f"'{text}' has a query or a fragment, and paths are added to it")
    return text


def user_agent(text: str) -> str:
    """Return what can be sent as a User-Agent."""
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ArgumentTypeError(f"{text!a} is no line of printable ASCII")
    return text
