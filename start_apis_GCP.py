"""Enable the Google Cloud APIs that the pipeline and Terraform use, in one batch.

Prints each API with what became of it: already on, or switched on now. Then makes sure that
Pub/Sub's service agent exists, because Terraform's first apply grants it roles and IAM refuses
roles for an account that does not exist yet. Repeating it changes nothing.

Credentials are GOOGLE_APPLICATION_CREDENTIALS or Application Default Credentials of somebody
with roles/serviceusage.serviceUsageAdmin on the project; the ingestion key is not meant for it.

Exit codes: 0 done; 1 failed, and the message says what to do; 2 wrong usage or configuration.
"""

from __future__ import annotations

import signal

from ingestion.project import check_packages

if __name__ == "__main__":
    # Ctrl-C while the rest is imported ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    check_packages()

import argparse
import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from google.api_core.exceptions import (
    Forbidden,
    GoogleAPICallError,
    NotFound,
    RetryError,
    Unauthorized,
    from_http_response,
)
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError, TransportError

from ingestion import command_line
from ingestion.addresses import check_address
from ingestion.arguments import Parser, add_json_arguments
from ingestion.google_names import require_project
from ingestion.logs import set_up_logging
from ingestion.settings import EMULATORS, ConfigurationError, credentials, load_environment, setting

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud.service_usage_v1 import ServiceUsageClient

# One batch request takes at most 20.
APIS = (
    "bigquery.googleapis.com",
    "bigquerystorage.googleapis.com",  # Pub/Sub's BigQuery subscription writes through it
    "cloudresourcemanager.googleapis.com",  # Terraform reads the project's number
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",  # keyless: impersonation
    "monitoring.googleapis.com",  # alerts
    "pubsub.googleapis.com",
    "serviceusage.googleapis.com",
    "storage.googleapis.com",
    "sts.googleapis.com",  # keyless: Workload Identity Federation
)
# what Terraform's `image` needs on top of them
UNATTENDED_APIS = (
    "artifactregistry.googleapis.com",
    "billingbudgets.googleapis.com",
    "cloudscheduler.googleapis.com",
    "logging.googleapis.com",
    "run.googleapis.com",
    "workflowexecutions.googleapis.com",
    "workflows.googleapis.com",
)
PUBSUB = "pubsub.googleapis.com"
DEFAULT_ENDPOINT = "https://serviceusage.googleapis.com"
ROLE = "roles/serviceusage.serviceUsageAdmin"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}

CALL_TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 30.0  # what one call may take in all, retries included
OPERATION_SECONDS = 300.0  # enabling usually takes half a minute
POLL_SECONDS = 2.0

log = logging.getLogger("start_apis_GCP")


class EnableError(Exception):
    """The APIs could not be enabled; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Access:
    """Where Service Usage answers and as whom we ask."""

    endpoint: str
    credentials: Credentials


@dataclass(frozen=True)
class Result:
    """What was found and done; `still_off` is empty but for a dry run."""

    project_id: str
    already_on: list[str]
    switched_on: list[str]
    still_off: list[str]
    pubsub_agent: str | None


def is_loopback(endpoint: str) -> bool:
    """Tell a test server on this machine from Google; refuse to send a token in the clear."""
    with suppress(ValueError):
        check_address(endpoint)
        parts = urlsplit(endpoint)
        if parts.scheme == "https":
            return False
        if parts.hostname in LOOPBACK:
            return True
    raise ConfigurationError(
        f"SERVICE_USAGE_ENDPOINT '{endpoint}' must be an https:// address "
        "(http:// for this machine only)."
    )


def explain(error: Exception, project_id: str) -> str:
    """Say in one sentence what is wrong and what to type next."""
    message = getattr(error, "message", None) or str(error)
    reason = getattr(error, "reason", None)
    if isinstance(error, RetryError | requests.RequestException | TransportError):
        return (
            "The Service Usage API does not answer: check the network and run the same command "
            "again."
        )
    if isinstance(error, GoogleAuthError | Unauthorized):
        return (
            "Google refused the credentials as expired or revoked: run "
            "'gcloud auth application-default login', or renew the key file."
        )
    if "billing" in message.lower():
        return (
            f"Billing is off for project {project_id}: link a billing account at "
            f"https://console.cloud.google.com/billing/linkedaccount?project={project_id} "
            "and run the same command again."
        )
    if reason == "SERVICE_DISABLED":
        return (
            "The Service Usage API itself is off: run 'gcloud services enable "
            f"serviceusage.googleapis.com --project={project_id}' once."
        )
    if isinstance(error, NotFound) or "not found" in message.lower():
        return (
            f"Project {project_id} does not exist, or these credentials may not see it: check "
            "--project-id and 'gcloud projects list'."
        )
    if isinstance(error, Forbidden):
        return (
            f"These credentials may not enable APIs in project {project_id}: they need {ROLE} "
            f"('gcloud projects add-iam-policy-binding {project_id} --member=user:YOU@example.com "
            f"--role={ROLE}')."
        )
    return f"The Service Usage API refused the request: {message}"


def result_lines(result: Result) -> str:
    """Return one line per API, in alphabetical order, and one for the service agent."""
    outcome = dict.fromkeys(result.already_on, "already on")
    outcome |= dict.fromkeys(result.switched_on, "switched on")
    outcome |= dict.fromkeys(result.still_off, "would switch on")
    lines = [f"{outcome[api]:<16}{api}" for api in sorted(outcome)]
    if result.pubsub_agent:
        lines.append(f"{'agent ready':<16}{result.pubsub_agent}")
    return "\n".join(lines)


def authenticate(endpoint: str, project_id: str) -> Access:
    """Find credentials; a server on this machine is asked anonymously."""
    from google.auth.credentials import AnonymousCredentials, CredentialsWithQuotaProject

    if is_loopback(endpoint):
        return Access(endpoint, AnonymousCredentials())  # type: ignore[no-untyped-call]
    found = credentials()
    if isinstance(found, CredentialsWithQuotaProject):
        # Service Usage refuses a person's credentials that name no project to count calls on
        found = found.with_quota_project(project_id)  # type: ignore[no-untyped-call]
    return Access(endpoint, found)


def service_usage_client(access: Access) -> ServiceUsageClient:
    """Return a client that speaks REST, as proxies and private endpoints expect."""
    from google.cloud.service_usage_v1 import ServiceUsageClient

    return ServiceUsageClient(
        credentials=access.credentials,
        transport="rest",
        client_options={"api_endpoint": access.endpoint},
    )


def call_options() -> dict[str, Any]:
    """Bound one call: a try, its repetitions on transient errors, and all of them together."""
    retry = Retry(initial=0.5, maximum=5.0, timeout=RETRY_SECONDS)
    return {"retry": retry, "timeout": CALL_TIMEOUT_SECONDS}


def apis_that_are_on(client: ServiceUsageClient, project_id: str, apis: Sequence[str]) -> set[str]:
    """Return those of `apis` that are enabled in the project."""
    from google.cloud.service_usage_v1 import State

    parent = f"projects/{project_id}"
    request = {"parent": parent, "names": [f"{parent}/services/{api}" for api in apis]}
    answer = client.batch_get_services(request=request, **call_options())
    # a service's name begins with the project's number, whichever way it was asked for
    on = {service.name for service in answer.services if service.state == State.ENABLED}
    return {name.rpartition("/")[2] for name in on}


def enable(client: ServiceUsageClient, project_id: str, apis: list[str]) -> None:
    """Enable `apis` in one batch and wait for the operation, OPERATION_SECONDS at most."""
    request = {"parent": f"projects/{project_id}", "service_ids": apis}
    operation = client.batch_enable_services(request=request, **call_options())
    started = time.monotonic()
    while not operation.done(retry=call_options()["retry"]):  # type: ignore[no-untyped-call]
        waited = time.monotonic() - started
        if waited > OPERATION_SECONDS:
            raise EnableError(
                f"Google was still enabling the APIs after {OPERATION_SECONDS:.0f} s: run the "
                "same command again, it goes on where it stands."
            )
        log.info("enabling apis=%d seconds=%d", len(apis), waited)
        time.sleep(POLL_SECONDS)
    failures = operation.result(timeout=0).failures  # type: ignore[no-untyped-call]
    if failures:
        told = "; ".join(f"{f.service_id}: {f.error_message}" for f in failures)
        raise EnableError(f"Google did not enable {told}")


def make_pubsub_agent(access: Access, project_id: str) -> str:
    """Make Pub/Sub's service agent exist and return its address.

    generateServiceIdentity is in v1beta1 only, which Google's client library leaves out. It
    answers an operation that is done at once when the agent exists.
    """
    from google.auth.transport.requests import AuthorizedSession

    session = AuthorizedSession(access.credentials)  # type: ignore[no-untyped-call]
    method = f"v1beta1/projects/{project_id}/services/{PUBSUB}:generateServiceIdentity"

    @Retry(initial=0.5, maximum=5.0, timeout=RETRY_SECONDS)
    def ask(verb: str, path: str) -> dict[str, Any]:
        url = f"{access.endpoint}/{path}"
        answer = session.request(  # type: ignore[no-untyped-call]
            verb, url, timeout=CALL_TIMEOUT_SECONDS
        )
        if not answer.ok:
            raise from_http_response(answer)  # type: ignore[no-untyped-call]
        content: dict[str, Any] = answer.json()
        return content

    operation = ask("POST", method)
    started = time.monotonic()
    while not operation.get("done"):
        if time.monotonic() - started > OPERATION_SECONDS:
            raise EnableError(
                "Pub/Sub's service agent was not ready in time: run the same command again."
            )
        time.sleep(POLL_SECONDS)
        operation = ask("GET", f"v1/{operation['name']}")
    if "error" in operation:
        told = operation["error"].get("message", "no reason given")
        raise EnableError(f"Google did not make Pub/Sub's service agent: {told}")
    return str(operation["response"]["email"])


def start_apis(access: Access, project_id: str, apis: Sequence[str], dry_run: bool) -> Result:
    """Enable what is off, unless `dry_run`, and return what was found and done."""
    client = service_usage_client(access)
    on = apis_that_are_on(client, project_id, apis)
    already_on = [api for api in apis if api in on]
    off = [api for api in apis if api not in on]
    if dry_run:
        return Result(project_id, already_on, [], off, None)
    if off:
        log.info("enabling apis=%d project=%s", len(off), project_id)
        enable(client, project_id, off)
        log.info("enabled apis=%d project=%s", len(off), project_id)
    agent = make_pubsub_agent(access, project_id)
    return Result(project_id, already_on, off, [], agent)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line; call load_environment() first, it fills the defaults."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--project-id",
        default=setting("GCP_PROJECT_ID"),
        metavar="ID",
        help="GCP project (default: $GCP_PROJECT_ID)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what is on and what would be switched on"
    )
    parser.add_argument(
        "--unattended",
        action="store_true",
        help="also the APIs of what Terraform makes with `image`: Cloud Run and its clocks",
    )
    add_json_arguments(parser, "the result")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the stage and return its exit code."""
    load_environment()
    args = build_parser().parse_args(argv)
    set_up_logging(as_json=args.log_json)
    # its warnings repeat, per attempt, what the last sentence says once
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    endpoint = setting("SERVICE_USAGE_ENDPOINT") or DEFAULT_ENDPOINT
    emulated = [name for name in EMULATORS if setting(name)]
    if emulated and endpoint == DEFAULT_ENDPOINT:
        log.info("nothing to enable: %s is set, and the local GCP has no APIs", emulated[0])
        return 0
    try:
        project_id = require_project(args.project_id)
        access = authenticate(endpoint.rstrip("/"), project_id)
        apis = APIS + UNATTENDED_APIS if args.unattended else APIS
        result = start_apis(access, project_id, apis, args.dry_run)
    except ConfigurationError as error:
        log.error("%s", error)
        return 2
    except EnableError as error:
        log.error("%s", error)
        return 1
    except (GoogleAPICallError, RetryError, GoogleAuthError, requests.RequestException) as error:
        log.error("%s", explain(error, project_id))
        return 1
    print(json.dumps(asdict(result)) if args.json else result_lines(result))
    return 0


if __name__ == "__main__":
    command_line.run(main)
