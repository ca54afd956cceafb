"""Checksums as Cloud Storage spells them: CRC32C, big-endian, in base64."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

import google_crc32c


def crc32c_of(blocks: Iterable[bytes]) -> str:
    """Return the checksum of some blocks."""
    crc = 0
    for block in blocks:
        crc = google_crc32c.extend(crc, block)
    return spelled_crc32c(crc)


def crc32c_of_file(file: Path) -> str:
    """Return the checksum of a file."""
    with file.open("rb") as content:
        return crc32c_of(iter(lambda: content.read(1 << 20), b""))


def spelled_crc32c(crc: int) -> str:
    """Return a CRC32C, for one that is made piece by piece."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()
