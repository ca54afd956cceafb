"""An answer as it comes over the wire: in blocks of any size."""

from __future__ import annotations

from collections.abc import Iterator


def blocks_of(body: bytes, size: int) -> Iterator[bytes]:
    """Cut `body` into blocks."""
    return (body[start : start + size] for start in range(0, len(body), size))
