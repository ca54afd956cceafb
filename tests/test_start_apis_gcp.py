"""start_apis_GCP.py against a local server that speaks Service Usage's REST format."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import google.auth
import google.oauth2.credentials
import pytest
import responses
from google.api_core.exceptions import Unauthorized
from google.auth.exceptions import RefreshError

import start_apis_GCP
from local_gcp.servers import hold_port
from start_apis_GCP import APIS, UNATTENDED_APIS, Result, explain, is_loopback, result_lines

PROJECT = "fake-store-test"
AGENT = "service-424242@gcp-sa-pubsub.iam.gserviceaccount.com"
OPERATION = "operations/acat.p2-424242-00000000-0000"
AGENT_OPERATION = "operations/acat.p2-424242-00000000-0001"
ENABLE_RESPONSE = "type.googleapis.com/google.api.serviceusage.v1.BatchEnableServicesResponse"


class ServiceUsage(ThreadingHTTPServer):
    """A project's APIs. The operation that enables some is done at its third look."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.on: set[str] = {"bigquery.googleapis.com", "serviceusage.googleapis.com"}
        self.pending: list[str] = []
        self.looks = 0
        self.looks_needed = 3
        self.requests: list[str] = []
        self.faults: list[tuple[int, dict[str, Any]]] = []
        self.operation_error: dict[str, Any] | None = None
        self.failures: list[dict[str, str]] = []
        self.agent_error: dict[str, Any] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def service(self, api: str, enums_as_numbers: bool) -> dict[str, Any]:
        name, number = ("ENABLED", 2) if api in self.on else ("DISABLED", 1)
        return {
            "name": f"projects/424242/services/{api}",
            "config": {"name": api, "title": api},
            "state": number if enums_as_numbers else name,
            "parent": "projects/424242",
        }

    def operation(self) -> dict[str, Any]:
        self.looks += 1
        if self.looks < self.looks_needed:
            return {"name": OPERATION}
        if self.operation_error:
            return {"name": OPERATION, "done": True, "error": self.operation_error}
        self.on |= set(self.pending)
        services = [self.service(api, enums_as_numbers=False) for api in self.pending]
        response = {"@type": ENABLE_RESPONSE, "services": services, "failures": self.failures}
        return {"name": OPERATION, "done": True, "response": response}


class Handler(BaseHTTPRequestHandler):
    server: ServiceUsage

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.requests.append(f"GET {url.path}")
        if self.server.faults:
            return self.answer(*self.server.faults.pop(0))
        if url.path == f"/v1/{OPERATION}":
            return self.answer(200, self.server.operation())
        if url.path == f"/v1/{AGENT_OPERATION}":
            if self.server.agent_error:
                ended = {"error": self.server.agent_error}
            else:
                ended = {"response": {"email": AGENT, "uniqueId": "100000000000000000001"}}
            return self.answer(200, {"name": AGENT_OPERATION, "done": True, **ended})
        if url.path == f"/v1/projects/{PROJECT}/services:batchGet":
            query = parse_qs(url.query)
            numbers = query.get("$alt") == ["json;enum-encoding=int"]
            apis = [name.rpartition("/")[2] for name in query["names"]]
            services = [self.server.service(api, numbers) for api in apis]
            return self.answer(200, {"services": services})
        return self.answer(404, error(404, "NOT_FOUND", f"no such method: {self.path}"))

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        self.server.requests.append(f"POST {url.path}")
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.server.faults:
            return self.answer(*self.server.faults.pop(0))
        if url.path == f"/v1/projects/{PROJECT}/services:batchEnable":
            self.server.pending = json.loads(body)["serviceIds"]
            return self.answer(200, {"name": OPERATION})
        agent_method = "services/pubsub.googleapis.com:generateServiceIdentity"
        if url.path == f"/v1beta1/projects/{PROJECT}/{agent_method}":
            if "pubsub.googleapis.com" not in self.server.on:
                return self.answer(400, error(400, "FAILED_PRECONDITION", "the API is off"))
            return self.answer(200, {"name": AGENT_OPERATION})
        return self.answer(404, error(404, "NOT_FOUND", f"no such method: {self.path}"))

    def log_message(self, *_: object) -> None:
        pass


def error(code: int, status: str, message: str, reason: str | None = None) -> dict[str, Any]:
    """Return Google's error body."""
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "googleapis.com"}
    details = [{**info, "reason": reason}] if reason else []
    return {"error": {"code": code, "message": message, "status": status, "details": details}}


@pytest.fixture
def service_usage(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceUsage]:
    server = ServiceUsage()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("SERVICE_USAGE_ENDPOINT", server.url)
    monkeypatch.setattr(start_apis_GCP, "POLL_SECONDS", 0.01)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*start_apis_GCP.EMULATORS, "SERVICE_USAGE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    # set first, so that what load_environment changes is undone after the test
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    for name in ("GCP_PROJECT_ID", "GCP_REGION", "BQ_DATASET", "GCS_BUCKET_NAME"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def run(*arguments: str) -> int:
    return start_apis_GCP.main(["--project-id", PROJECT, *arguments])


def test_what_is_off_is_enabled_in_one_batch_and_awaited(
    service_usage: ServiceUsage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    assert service_usage.on == set(APIS)
    assert service_usage.looks == 3
    assert [r for r in service_usage.requests if "batchEnable" in r] == [
        f"POST /v1/projects/{PROJECT}/services:batchEnable"
    ]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(APIS) + 1
    assert lines[0] == "already on      bigquery.googleapis.com"
    assert lines[1] == "switched on     bigquerystorage.googleapis.com"
    assert lines[-1] == f"agent ready     {AGENT}"


def test_what_runs_unattended_has_its_apis_enabled_when_asked(
    service_usage: ServiceUsage,
) -> None:
    assert run("--unattended") == 0
    assert service_usage.on == {*APIS, *UNATTENDED_APIS}
    assert len([*APIS, *UNATTENDED_APIS]) <= 20  # what one batch takes


def test_progress_is_told_while_google_works(
    service_usage: ServiceUsage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    service_usage.looks_needed = 2
    assert run() == 0
    assert any(f"enabling apis={len(APIS) - 2} seconds=" in each for each in caplog.messages)


def test_a_second_run_enables_nothing(
    service_usage: ServiceUsage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    service_usage.requests.clear()
    capsys.readouterr()
    assert run("--json") == 0
    assert not any("batchEnable" in request for request in service_usage.requests)
    assert json.loads(capsys.readouterr().out) == {
        "project_id": PROJECT,
        "already_on": list(APIS),
        "switched_on": [],
        "still_off": [],
        "pubsub_agent": AGENT,
    }


def test_a_dry_run_only_asks(
    service_usage: ServiceUsage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--dry-run") == 0
    assert service_usage.requests == [f"GET /v1/projects/{PROJECT}/services:batchGet"]
    output = capsys.readouterr().out
    assert "already on      bigquery.googleapis.com" in output
    assert "would switch on pubsub.googleapis.com" in output
    assert "agent" not in output


NOT_ALLOWED = error(
    403, "PERMISSION_DENIED", "Permission denied to enable service", "AUTH_PERMISSION_DENIED"
)
UNKNOWN = error(
    403,
    "PERMISSION_DENIED",
    f"Project '{PROJECT}' not found or permission denied.",
    "USER_PROJECT_DENIED",
)
NO_BILLING = error(
    400,
    "FAILED_PRECONDITION",
    "Billing account for project '424242' is not found. Billing must be enabled for activation "
    "of service(s) 'pubsub.googleapis.com' to proceed.",
    "UREQ_PROJECT_BILLING_NOT_FOUND",
)
OFF = error(
    403, "PERMISSION_DENIED", "Service Usage API has not been used before", "SERVICE_DISABLED"
)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        pytest.param(NOT_ALLOWED, "roles/serviceusage.serviceUsageAdmin", id="no permission"),
        pytest.param(UNKNOWN, f"Project {PROJECT} does not exist", id="unknown project"),
        pytest.param(NO_BILLING, f"Billing is off for project {PROJECT}", id="no billing"),
        pytest.param(OFF, "services enable serviceusage.googleapis.com", id="service usage off"),
    ],
)
def test_a_refusal_is_one_sentence_that_says_what_to_do(
    service_usage: ServiceUsage,
    caplog: pytest.LogCaptureFixture,
    fault: dict[str, Any],
    sentence: str,
) -> None:
    service_usage.faults = [(fault["error"]["code"], fault)]
    assert run() == 1
    assert sentence in caplog.messages[-1]
    assert "\n" not in caplog.messages[-1]


def test_billing_that_the_operation_finds_off_is_named(
    service_usage: ServiceUsage, caplog: pytest.LogCaptureFixture
) -> None:
    service_usage.operation_error = {"code": 9, "message": NO_BILLING["error"]["message"]}
    assert run() == 1
    assert caplog.messages[-1].startswith(f"Billing is off for project {PROJECT}")
    assert "pubsub.googleapis.com" not in service_usage.on


def test_an_api_that_could_not_be_enabled_is_named(
    service_usage: ServiceUsage, caplog: pytest.LogCaptureFixture
) -> None:
    failure = {"serviceId": "monitoring.googleapis.com", "errorMessage": "blocked by policy"}
    service_usage.failures = [failure]
    assert run() == 1
    assert "did not enable monitoring.googleapis.com: blocked by policy" in caplog.messages[-1]


def test_an_agent_that_could_not_be_made_is_a_failure(
    service_usage: ServiceUsage, caplog: pytest.LogCaptureFixture
) -> None:
    service_usage.agent_error = {"code": 13, "message": "internal error"}
    assert run() == 1
    assert "service agent: internal error" in caplog.messages[-1]


def test_an_operation_without_end_is_given_up(
    service_usage: ServiceUsage,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start_apis_GCP, "OPERATION_SECONDS", 0.1)
    service_usage.looks_needed = 1_000_000
    assert run() == 1
    assert "run the same command again" in caplog.messages[-1]


def test_a_passing_fault_is_retried(service_usage: ServiceUsage) -> None:
    service_usage.faults = [(503, error(503, "UNAVAILABLE", "try again"))]
    assert run("--dry-run") == 0


def test_an_api_that_does_not_answer_is_given_up_within_the_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(start_apis_GCP, "RETRY_SECONDS", 0.5)
    monkeypatch.setattr(start_apis_GCP, "CALL_TIMEOUT_SECONDS", 0.2)
    for is_listening in (True, False):
        with hold_port(0) as held:
            if is_listening:  # takes connections, never answers
                held.listen()
            port = held.getsockname()[1]
            monkeypatch.setenv("SERVICE_USAGE_ENDPOINT", f"http://127.0.0.1:{port}")
            assert run() == 1
        assert "does not answer" in caplog.messages[-1]


def test_missing_credentials_say_how_to_get_some(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    assert run() == 2
    assert "gcloud auth application-default login" in caplog.messages[-1]


def test_refused_credentials_say_how_to_renew_them() -> None:
    assert "expired or revoked" in explain(RefreshError("invalid_grant"), PROJECT)
    assert "expired or revoked" in explain(Unauthorized("invalid credentials"), PROJECT)


ACCOUNT = f"fake-store-ingestion@{PROJECT}.iam.gserviceaccount.com"
ACT_AS = (
    "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"
    f"{ACCOUNT}:generateAccessToken"
)
IMPERSONATION = {
    "type": "impersonated_service_account",
    "service_account_impersonation_url": ACT_AS,
    "source_credentials": {
        "type": "authorized_user",
        "client_id": "id",
        "client_secret": "not a secret",
        "refresh_token": "token",
    },
}
WORKLOAD_IDENTITY = {
    "type": "external_account",
    "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/ci/"
    "providers/github",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token",
    "service_account_impersonation_url": ACT_AS,
}


@responses.activate
@pytest.mark.parametrize("file", [IMPERSONATION, WORKLOAD_IDENTITY], ids=lambda f: str(f["type"]))
def test_keyless_credentials_are_taken_like_a_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: dict[str, Any]
) -> None:
    token = {"access_token": "token", "token_type": "Bearer", "expires_in": 3600}
    responses.post("https://sts.googleapis.com/v1/token", json=token)
    responses.post(ACT_AS, json={"accessToken": "token", "expireTime": "2099-01-01T00:00:00Z"})
    number_to_id = "https://cloudresourcemanager.googleapis.com/v1/projects/1"
    responses.get(number_to_id, json={"projectId": PROJECT})
    (tmp_path / "token").write_text("a token of the CI")
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps({**file, "credential_source": {"file": str(tmp_path / "token")}}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    access = start_apis_GCP.authenticate("https://serviceusage.googleapis.com", PROJECT)
    assert access.credentials.service_account_email == ACCOUNT


def test_calls_are_counted_on_the_project_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = google.oauth2.credentials.Credentials("token", quota_project_id="another")
    monkeypatch.setattr(google.auth, "default", lambda **_: (mine, None))
    access = start_apis_GCP.authenticate("https://serviceusage.googleapis.com", PROJECT)
    assert access.credentials.quota_project_id == PROJECT


@pytest.mark.parametrize("project_id", ["your-project-id", "Fake Store", "123456789012"])
def test_a_project_id_that_cannot_be_one_is_a_configuration_error(
    project_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert start_apis_GCP.main(["--project-id", project_id]) == 2
    assert project_id in caplog.messages[-1]


def test_a_token_is_never_sent_in_the_clear() -> None:
    assert is_loopback("http://127.0.0.1:8080")
    assert not is_loopback("https://serviceusage-internal.p.googleapis.com")
    for endpoint in ("http://serviceusage.example.com", "serviceusage.example.com", "https://[::1"):
        with pytest.raises(start_apis_GCP.ConfigurationError, match="https://"):
            is_loopback(endpoint)


def test_with_the_local_gcp_there_is_nothing_to_enable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:1")
    assert run() == 0
    assert caplog.messages == [
        "nothing to enable: BIGQUERY_EMULATOR_HOST is set, and the local GCP has no APIs"
    ]


def test_one_batch_holds_all_apis() -> None:
    assert len(APIS) <= 20
    assert list(APIS) == sorted(set(APIS))


def test_report_lists_the_apis_in_order() -> None:
    result = Result(PROJECT, ["c.googleapis.com"], ["a.googleapis.com"], [], None)
    assert result_lines(result).split() == [
        "switched",
        "on",
        "a.googleapis.com",
        "already",
        "on",
        "c.googleapis.com",
    ]
