"""The workflow of the day, run: what runs after what, how often, and how it ends."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Mapping
from typing import Any

import pytest

import batch_ingestion
import kpi_report
from ingestion.project import PROJECT_FOLDER
from tests.support.workflow import Workflow, WorkflowError

TEXT = (PROJECT_FOLDER / "terraform/workflows/daily.yaml").read_text(encoding="utf-8")
JOBS = """{
  "batch": {"name": "jobs/batch", "args": ["--json"]},
  "dbt": {"name": "jobs/dbt", "args": ["dbt build || dbt retry"]},
  "report": {"name": "jobs/report", "args": ["--output", "gs://report/index.html"]}
}"""
EXECUTION = "projects/424242/locations/europe-west9/workflows/fake-store-daily/executions/"
OURS = str(uuid.uuid4())


class Cloud:
    """Cloud Run and Workflows' own list: jobs end with the codes that a test lays ready."""

    def __init__(self, **codes: list[int | str]) -> None:
        self.codes = {"batch": [0], "dbt": [0], "report": [0], **codes}
        self.ran: list[tuple[str, list[str]]] = []
        self.slept: list[float] = []
        self.executions = [{"name": EXECUTION + OURS, "state": "ACTIVE", "startTime": at(4)}]
        self._looks = 0

    def run(self) -> Any:
        environment = {
            "GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID": OURS,
            "GOOGLE_CLOUD_PROJECT_ID": "fake-store-test",
            "GOOGLE_CLOUD_LOCATION": "europe-west9",
            "GOOGLE_CLOUD_WORKFLOW_ID": "fake-store-daily",
            "JOBS": JOBS,
        }
        return Workflow(TEXT, environment, self.answer, self.slept.append).run()

    def answer(self, method: str, url: str, sent: Mapping[str, Any]) -> Any:
        if url.startswith("https://workflowexecutions.googleapis.com/v1/"):
            assert sent == {"filter": 'state="ACTIVE"'}
            return {"executions": self.executions}
        path = url.removeprefix("https://run.googleapis.com/v2/")
        job = path.split("/")[1].removesuffix(":run")
        if method == "post":
            (override,) = sent["overrides"]["containerOverrides"]
            self.ran.append((job, override["args"]))
            if self.codes[job][0] == "forbidden":
                raise WorkflowError({"code": 403, "message": "forbidden"})
            return {"metadata": {"name": f"jobs/{job}/executions/1"}}
        if path.endswith("/tasks"):
            code = self.codes[job].pop(0)
            # a task that was killed has no exit code
            result = {"exitCode": code} if isinstance(code, int) else {"termSignal": 9}
            return {"tasks": [{"lastAttemptResult": result}]}
        self._looks += 1
        if self._looks % 2:  # it takes a while
            return {"runningCount": 1}
        if self.codes[job][0] == 0:
            return {"completionTime": at(5), "succeededCount": 1}
        return {"completionTime": at(5), "failedCount": 1}

    @property
    def order(self) -> list[str]:
        return [job for job, _ in self.ran]

    @property
    def pauses(self) -> list[float]:
        """How long it waited between two attempts; 15 s is how often it looks."""
        return [seconds for seconds in self.slept if seconds != 15]


def at(hour: int) -> str:
    return f"2026-11-22T{hour:02}:00:00.123456Z"


def test_batch_dbt_and_report_run_in_this_order_and_the_day_succeeds() -> None:
    cloud = Cloud()
    assert cloud.run() is None
    assert cloud.ran == [
        ("batch", ["--json", "--run-id", OURS]),
        ("dbt", ["dbt build || dbt retry"]),
        ("report", ["--output", "gs://report/index.html"]),
    ]


def test_what_the_workflow_adds_are_flags_of_the_scripts() -> None:
    cloud = Cloud(batch=[1], dbt=[2])
    with pytest.raises(WorkflowError):
        cloud.run()
    args = dict(cloud.ran)
    batch: argparse.Namespace = batch_ingestion.build_parser().parse_args(args["batch"])
    assert str(batch.run_id) == OURS
    assert kpi_report.build_parser().parse_args(args["report"]).warning == [
        "The batch run ended with exit code 1.",
        "dbt ended with exit code 2, so figures may be those of an earlier build.",
    ]


@pytest.mark.parametrize("job", ["batch", "dbt", "report"])
def test_one_failed_job_fails_the_day_but_stops_none_of_the_others(job: str) -> None:
    cloud = Cloud(**{job: [1]})
    with pytest.raises(WorkflowError) as failed:
        cloud.run()
    assert cloud.order == ["batch", "dbt", "report"]
    codes = {name: failed.value.value[name]["exit_code"] for name in cloud.codes}
    assert codes == {"batch": 0, "dbt": 0, "report": 0, job: 1}
    assert cloud.pauses == []


def test_exit_code_3_is_tried_again_with_the_same_run_id_until_it_is_done() -> None:
    cloud = Cloud(batch=[3, 3, 0])
    cloud.run()
    assert cloud.order == ["batch", "batch", "batch", "dbt", "report"]
    assert {tuple(args) for job, args in cloud.ran if job == "batch"} == {
        ("--json", "--run-id", OURS)
    }
    assert cloud.pauses == [300, 600]


def test_an_outage_without_end_is_given_up_within_the_hour() -> None:
    cloud = Cloud(batch=[3, 3, 3, 3, 0])
    with pytest.raises(WorkflowError) as failed:
        cloud.run()
    assert failed.value.value["batch"]["exit_code"] == 3
    assert cloud.order == ["batch"] * 4 + ["dbt", "report"]
    assert sum(cloud.pauses) < 3600


@pytest.mark.parametrize("code", [1, 2, "killed"])
def test_nothing_else_is_tried_again(code: int | str) -> None:
    cloud = Cloud(batch=[code, 0])
    with pytest.raises(WorkflowError) as failed:
        cloud.run()
    assert cloud.order == ["batch", "dbt", "report"]
    assert failed.value.value["batch"]["exit_code"] == (code if isinstance(code, int) else 1)


def test_a_job_that_cannot_be_started_is_told_with_its_reason() -> None:
    cloud = Cloud(dbt=["forbidden"])
    with pytest.raises(WorkflowError) as failed:
        cloud.run()
    assert failed.value.value["dbt"] == {
        "exit_code": 1,
        "problem": {"code": 403, "message": "forbidden"},
    }
    assert cloud.order == ["batch", "dbt", "report"]


def another(start: str, name: str = "0", state: str = "ACTIVE") -> dict[str, str]:
    return {"name": EXECUTION + name, "state": state, "startTime": start}


@pytest.mark.parametrize("earlier", [another(at(3)), another(at(4), name="")])
def test_while_an_earlier_execution_is_at_work_nothing_is_run(earlier: dict[str, str]) -> None:
    cloud = Cloud()
    cloud.executions.append(earlier)
    with pytest.raises(WorkflowError, match="another execution is at work"):
        cloud.run()
    assert cloud.ran == []


@pytest.mark.parametrize(
    "other", [another(at(5)), another(at(4), name="z"), another(at(3), state="SUCCEEDED")]
)
def test_a_later_or_an_ended_execution_is_no_obstacle(other: dict[str, str]) -> None:
    cloud = Cloud()
    cloud.executions.insert(0, other)
    cloud.run()
    assert cloud.order == ["batch", "dbt", "report"]
