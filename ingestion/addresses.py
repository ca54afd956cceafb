"""Which addresses can be asked over HTTP."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

MAX_HOST_LABEL = 63


def check_address(url: str) -> None:
    """Raise ValueError with the reason where `url` cannot be asked: '... names no host'."""
    if not re.fullmatch(r"[!-~\u00a1-\ud7ff\ue000-\U0010ffff]+", url):
        raise ValueError("holds a blank, a control character or a byte that is no text")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("cannot be read as an address") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("is no http:// or https:// address")
    try:
        labels = host.encode("idna").removesuffix(b".").split(b".")
    except UnicodeError:
        labels = [b""]
    if port == 0 or not all(0 < len(label) <= MAX_HOST_LABEL for label in labels):
        raise ValueError("names no host that can exist")
