"""One set-up of the log for every script: lines for people, JSON where a machine reads it.

A line is a sentence with a stable tail, `loaded table=users_raw rows=10`. In JSON each `key=value`
of it is a field beside `message`, numbers as numbers, and so is what a caller gives as `extra`;
Cloud Logging takes `severity` and `time` for its own and keeps the rest as `jsonPayload`, which
Terraform's alerts count (terraform/log_metrics.tf).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

FORMAT = "%(asctime)s %(levelname)s %(message)s"
# one of these is set wherever Cloud Run runs a container: a job, a worker pool, a service
CLOUD_RUN_VARIABLES = ("CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL", "K_SERVICE")

# a colon or a comma after a value belongs to the sentence
_PAIR = re.compile(r"(?<!\S)([a-z][a-z_]*)=(\S*?)[,;:.]*(?=\s|$)")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_OWN_ATTRIBUTES = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the names that Cloud Logging knows."""

    def __init__(self, **fields: Any) -> None:
        """Give every line `fields`, unless it says something else itself."""
        super().__init__()
        self._fields = {name: value for name, value in fields.items() if value is not None}

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        message = record.getMessage()
        extra = {k: v for k, v in record.__dict__.items() if k not in _OWN_ATTRIBUTES}
        pairs = {key: _value(text) for key, text in _PAIR.findall(message)}
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        own = {
            "severity": record.levelname,
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            # a line that had nothing but its message would be no jsonPayload
            "logger": record.name,
            "message": message,
        }
        return json.dumps({**self._fields, **pairs, **extra, **own}, default=str)


def _value(text: str) -> str | int | float:
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


def set_up_logging(*, as_json: bool, level: int = logging.INFO, **fields: Any) -> None:
    """Log to stderr; as JSON where `as_json` or Cloud Run asks for it, then with `fields`."""
    handler = logging.StreamHandler(sys.stderr)
    if as_json or any(os.environ.get(name) for name in CLOUD_RUN_VARIABLES):
        handler.setFormatter(JsonFormatter(**fields))
        sys.excepthook = _log_uncaught
    else:
        handler.setFormatter(logging.Formatter(FORMAT))
    logging.basicConfig(level=level, handlers=[handler])


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Keep a traceback in one entry, with its severity; a line each would have none."""
    logging.getLogger("uncaught").critical("%s", error, exc_info=(kind, error, trace))
