"""Records as lines of newline-delimited JSON, each in its envelope: pure, bytes to bytes."""

from __future__ import annotations

import json

import msgspec

from ingestion.plain_records import PlainRecords
from ingestion.records import BadRecord
from ingestion.redaction import redact

# what stands between a line's envelope and its record; inside a JSON string it cannot stand
RECORD_MEMBER = b', "record": '
# between tokens JSON allows newlines, in a line of NDJSON they may not stand; inside strings JSON
# itself forbids them
_NEWLINES_TO_SPACES = bytes.maketrans(b"\r\n", b"  ")


def envelope(run_id: str, ingested_at: str, source_url: str, **others: object) -> bytes:
    """Return the line of a record up to the record itself; `}` and a newline follow it."""
    members = {"_run_id": run_id, "_ingested_at": ingested_at, "_source_url": source_url, **others}
    return json.dumps(members, ensure_ascii=False).encode()[:-1] + RECORD_MEMBER


def to_lines(
    records: list[msgspec.Raw] | PlainRecords, opening: bytes, redacted: frozenset[str]
) -> bytes:
    """Return records as lines of NDJSON, each behind `opening`, without the redacted members."""
    if not records:
        return b""
    if isinstance(records, PlainRecords):
        if redacted.isdisjoint(records.names) and not records.has_newlines:
            return b"%b%b}\n" % (opening, (b"}\n" + opening).join(records.raws))
        records = records.raws
    lines = b"\n".join(records)
    if lines.count(b"\n") >= len(records) or b"\r" in lines:
        lines = b"\n".join(bytes(raw).translate(_NEWLINES_TO_SPACES) for raw in records)
    # the envelopes come last, so that what is looked through is as short as it can be
    return b"%b%b}\n" % (opening, redact(lines, redacted).replace(b"\n", b"}\n" + opening))


def quarantine_line(bad: BadRecord, opening: bytes, redacted: frozenset[str]) -> bytes:
    """Return a refused record as one line, like to_lines."""
    record = redact(bad.raw, redacted).translate(_NEWLINES_TO_SPACES)
    # NDJSON is UTF-8, even where the record was refused because it was not
    return b"%b%b}\n" % (opening, record.decode(errors="replace").encode())
