"""The log: lines for people, JSON with fields for machines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from ingestion.logs import CLOUD_RUN_VARIABLES, JsonFormatter
from ingestion.project import PROJECT_FOLDER


def formatted(message: str, *values: object, **extra: Any) -> dict[str, Any]:
    """Return what one line of JSON says, its time left out."""
    logger = logging.getLogger("stage")
    record = logger.makeRecord(
        "stage", logging.WARNING, "file", 1, message, values, None, extra=extra
    )
    line: dict[str, Any] = json.loads(JsonFormatter(run_id="r1", nothing=None).format(record))
    assert line.pop("time").endswith("+00:00")
    return line


def test_tail_becomes_fields_beside_severity_and_message() -> None:
    assert formatted("loaded table=%s rows=%d seconds=%.1f", "users_raw", 10, 1.5) == {
        "severity": "WARNING",
        "logger": "stage",
        "message": "loaded table=users_raw rows=10 seconds=1.5",
        "table": "users_raw",
        "rows": 10,
        "seconds": 1.5,
        "run_id": "r1",
    }


def test_punctuation_of_the_sentence_is_no_part_of_a_value() -> None:
    line = formatted("failed entity=users: 403, held=3, and waiting=0.")
    assert (line["entity"], line["held"], line["waiting"]) == ("users", 3, 0)


def test_a_line_may_say_another_run_and_what_is_not_in_its_text() -> None:
    line = formatted("finished run_id=r2", poll=7)
    assert (line["run_id"], line["poll"]) == ("r2", 7)


def test_text_from_outside_changes_neither_severity_nor_message() -> None:
    text = "refused severity=DEBUG message=x time=1 logger=y http://host/?page=2&limit=3"
    line = formatted(text)
    assert (line["severity"], line["message"], line["logger"]) == ("WARNING", text, "stage")
    assert "page" not in line
    assert "limit" not in line


def log_of(code: str, as_json: bool, **environment: str) -> str:
    """Return what a process logs that sets up its log and then runs `code`."""
    program = f"""
import logging
from ingestion.logs import set_up_logging
set_up_logging(as_json={as_json})
{code}
"""
    command = [sys.executable, "-c", program]
    answer = subprocess.run(
        command, cwd=PROJECT_FOLDER, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.stdout == ""
    return answer.stderr


@pytest.mark.parametrize("variable", CLOUD_RUN_VARIABLES)
def test_cloud_run_gets_json_without_being_asked(variable: str) -> None:
    (line,) = log_of("logging.info('polled poll=1')", False, **{variable: "x"}).splitlines()
    assert json.loads(line)["poll"] == 1


def test_people_get_lines() -> None:
    (line,) = log_of("logging.info('polled poll=1')", False).splitlines()
    assert line.endswith(" INFO polled poll=1")


def test_an_error_of_ours_is_one_entry_with_its_traceback() -> None:
    (line,) = log_of("raise RuntimeError('no')", True).splitlines()
    entry = json.loads(line)
    assert entry["severity"] == "CRITICAL"
    assert entry["message"].startswith("no\nTraceback (most recent call last):\n")
    assert entry["message"].endswith("RuntimeError: no")
