"""Terraform's log-based metrics count what the stages really log: real lines, real filters."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import near_realtime_ingestion_2
from ingestion.carts.lease_errors import LeaseHeldError, LeaseLostError
from ingestion.carts.stop import Stop
from ingestion.carts.summary import Summary
from ingestion.logs import JsonFormatter
from ingestion.project import PROJECT_FOLDER
from local_gcp.fake_store import FakeStore
from tests.support.cart_histories import CartsSource, Fault, carts_source, run_stage
from tests.support.recording_pubsub import RecordingPubSub
from tests.support.terraform_cli import Terraform

Line = dict[str, Any]
CLAUSE = re.compile(r'jsonPayload\.(\w+) (=~|=|>) ("[^"]*"|\d+)')
# what Cloud Run itself says of a container
NOT_OURS_TO_LOG = {"crashes"}


@pytest.fixture(scope="module")
def metrics(terraform: Terraform) -> dict[str, dict[str, Any]]:
    """The planned metrics by their short name."""
    image = f"europe-west9-docker.pkg.dev/p/fake-store/pipeline@sha256:{'a' * 64}"
    plan = terraform.plan("dev", image=image)
    kind = "google_logging_metric.line"
    return {a.split('"')[1]: values for a, values in plan.items() if a.startswith(kind)}


def clauses(metric: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (field, operator, value) of each clause of a filter on jsonPayload."""
    found = CLAUSE.findall(metric["filter"])
    assert len(found) == metric["filter"].count("jsonPayload."), metric["filter"]
    return found


def counts(metric: dict[str, Any], line: Line) -> bool:
    """Tell whether Cloud Logging would count a line: a field that is missing never matches."""
    for field, operator, value in clauses(metric):
        if field not in line:
            return False
        if operator == ">":
            matches = isinstance(line[field], int | float) and line[field] > int(value)
        elif operator == "=~":
            matches = re.search(json.loads(value), str(line[field])) is not None
        else:
            matches = line[field] == json.loads(value)
        if not matches:
            return False
    return True


def lines_of(log: str) -> list[Line]:
    """Return a log's lines; each has what Cloud Logging makes an entry with a severity of."""
    lines: list[Line] = [json.loads(line) for line in log.splitlines()]
    assert all(line.keys() >= {"severity", "message", "time", "logger"} for line in lines)
    return lines


@pytest.fixture
def poll(tmp_path: Path) -> Iterator[Callable[..., list[Line]]]:
    """Poll once, with a fault of the source's or a judge of Pub/Sub's, and return the log."""
    pubsub = RecordingPubSub()

    def run(fault: Fault | None = None, judge: Any = None, is_away: bool = False) -> list[Line]:
        with carts_source() as source:
            prepare(source, fault)
            pubsub.judge = judge or pubsub.judge
            if is_away:
                pubsub.stop()
            patience = "1" if is_away else "60"
            flags = ("--once", "--log-json", "--project-id", "p", "--publish-timeout", patience)
            ended = run_stage(tmp_path, source.url, *flags, env=pubsub.environment)
        return lines_of(ended.log)

    yield run
    pubsub.stop()


def prepare(source: CartsSource, fault: Fault | None) -> None:
    for cart_id in (1, 2):
        source.put(cart_id, (cart_id, 1))
    source.fault = fault


def counted(metrics: dict[str, dict[str, Any]], lines: list[Line]) -> dict[str, int]:
    """Return how many lines each of our metrics counts, those that count none left out."""
    found = {
        name: sum(counts(metric, line) for line in lines)
        for name, metric in metrics.items()
        if name not in NOT_OURS_TO_LOG
    }
    return {name: number for name, number in found.items() if number}


def test_a_good_poll_is_counted_once_and_alarms_nobody(metrics: Any, poll: Any) -> None:
    lines = poll()
    assert counted(metrics, lines) == {"polls": 1}
    assert [line["poll"] for line in lines if "poll" in line] == [1]


def test_a_refused_answer_is_a_failed_poll(metrics: Any, poll: Any) -> None:
    lines = poll(fault=Fault(b"null"))
    assert counted(metrics, lines) == {"polls_failed": 1}
    assert {line["severity"] for line in lines} == {"ERROR", "INFO"}
    assert {line["poll"] for line in lines} == {1}


def test_events_that_wait_are_counted(metrics: Any, poll: Any) -> None:
    assert counted(metrics, poll(is_away=True)) == {"polls": 1, "polls_waiting": 1}


def test_events_that_pubsub_refuses_are_counted(metrics: Any, poll: Any) -> None:
    lines = poll(judge=lambda message: grpc.StatusCode.INVALID_ARGUMENT)
    assert counted(metrics, lines) == {"polls": 1, "dead_lettered": 1}


class TakenOver:
    """A poller whose lease another one has taken, or holds."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def poll(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected"), [(LeaseLostError("taken"), {"fenced": 1}), (LeaseHeldError("held"), {})]
)
def test_who_is_fenced_is_counted_and_who_stands_back_is_not(
    metrics: Any,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    expected: dict[str, int],
) -> None:
    caplog.set_level("INFO")
    code = near_realtime_ingestion_2.run_polls(
        TakenOver(error),  # type: ignore[arg-type]
        publish_once=pytest.fail,
        stop=Stop(),
        summary=Summary(),
        interval=1,
        max_polls=1,
    )
    assert code == 0
    log = "\n".join(map(JsonFormatter().format, caplog.records))
    assert counted(metrics, lines_of(log)) == expected


def test_a_failed_entity_is_counted_under_its_name(
    metrics: Any, fake_store: FakeStore, tmp_path: Path
) -> None:
    fake_store.set_fault("/users", "null")
    command = [sys.executable, PROJECT_FOLDER / "batch_ingestion.py", "--local-only"]
    command += ["--raw-dir", tmp_path, "--api-url", fake_store.url, "--log-json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = lines_of(done.stderr)
    assert counted(metrics, lines) == {"entities_failed": 1}
    (label,) = metrics["entities_failed"]["label_extractors"].items()
    assert label == ("entity", "EXTRACT(jsonPayload.entity)")
    (failed,) = [line for line in lines if counts(metrics["entities_failed"], line)]
    assert failed["entity"] == "users"
    assert len({line["run_id"] for line in lines}) == 1


def test_every_metric_is_tried_here_or_named_as_another_ones(metrics: Any) -> None:
    tried = set(re.findall(r'"(\w+)": 1\b', Path(__file__).read_text(encoding="utf-8")))
    assert metrics.keys() == tried | NOT_OURS_TO_LOG
