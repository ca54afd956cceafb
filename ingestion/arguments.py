"""What a command line may give: one spelling of what is refused, for every script."""

from __future__ import annotations

import math
import os
import re
import textwrap
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    RawDescriptionHelpFormatter,
    _ActionsContainer,
)
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from ingestion.addresses import check_address

# what the operating system's clocks and sockets take everywhere; about a year
MAX_SECONDS = 31_536_000.0
MAX_PORT = 65_535


class Help(RawDescriptionHelpFormatter):
    """Wraps the paragraphs of a docstring to the terminal; what is indented stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        wrap = textwrap.TextWrapper(width, break_on_hyphens=False, break_long_words=False).fill
        paragraphs = text.strip().split("\n\n")
        return "\n\n".join(one if "\n " in f"\n{one}" else wrap(one) for one in paragraphs)


class Parser(ArgumentParser):
    """A parser that names the flag or value which a mistyped one was probably meant to be."""

    def __init__(self, **options: Any) -> None:
        """Take no flag by its beginning: the next one that begins so would change its meaning."""
        super().__init__(allow_abbrev=False, formatter_class=Help, **options)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one sentence."""
        close: list[str] = []
        flags = self._option_string_actions
        if flag := re.search(r"unrecognized arguments: (-[^\s=]+)", message):
            close = [one for one in flags if one.startswith(flag[1])]
            close = close or get_close_matches(flag[1], flags, n=1)
        elif word := re.search(r"unrecognized arguments: (\S+)", message):
            close = [
                f"{flag} {word[1]}" for flag, one in flags.items() if word[1] in (one.choices or ())
            ]
            close = close or get_close_matches(f"--{word[1]}", flags, n=1, cutoff=0.8)
        elif value := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            close = get_close_matches(value[1], value[2].replace("'", "").split(", "), n=1)
        super().error(f"{message} (did you mean {' or '.join(close)}?)" if close else message)

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


def count(text: str, least: int = 1) -> int:
    """Return a whole number, `least` at least."""
    number = _whole(text)
    if number is None or number < least:
        raise ArgumentTypeError(f"'{text}' is no whole number from {least}")
    return number


def port(text: str, least: int = 0, most: int = MAX_PORT) -> int:
    """Return the number of a port; 0 is any free one."""
    number = _whole(text)
    if number is None or not least <= number <= most:
        raise ArgumentTypeError(f"'{text}' is no port from {least} to {most:,}")
    return number


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def api_url(text: str) -> str:
    """Return the address of an API, to which paths can be added."""
    try:
        check_address(text)
        if "?" in text or "#" in text:
            raise ValueError("has a query or a fragment, and paths are added to it")
    except ValueError as error:
        # argparse names the flag, whose default is the setting
        is_setting = text == os.environ.get("FAKE_STORE_API_URL")
        origin = ", from FAKE_STORE_API_URL," if is_setting else ""
        raise ArgumentTypeError(f"{text!a}{origin} {error}") from None
    return text


def user_agent(text: str) -> str:
    """Return what can be sent as a User-Agent."""
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ArgumentTypeError(f"{text!a} is no line of printable ASCII")
    return text
