"""What every stage reads before it starts: `.env`, the project, credentials and Google's clients.

Command line over environment over `.env` over default. `STORAGE_EMULATOR_HOST`,
`BIGQUERY_EMULATOR_HOST` and `PUBSUB_EMULATOR_HOST` send the clients to the local GCP, with
anonymous credentials. Google's libraries are imported where they are used, so that a run
with `--local-only` starts without them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values

if TYPE_CHECKING:
    from google.cloud import bigquery
    from google.cloud.storage import Client as StorageClient

PROJECT_FOLDER = Path(__file__).resolve().parent
DEFAULT_KEY_FILE = PROJECT_FOLDER / "credentials" / "gcp-key.json"
DEFAULT_API_URL = "https://fakestoreapi.com"
DEFAULT_REGION = "europe-west1"
PLACEHOLDER_PREFIX = "your-"


class ConfigurationError(Exception):
    """Wrong or missing configuration, told in one sentence; the scripts end with exit code 2."""


def load_environment(env_file: Path = PROJECT_FOLDER / ".env") -> None:
    """Lay `.env` under the environment, and find the key file.

    An empty variable counts as unset. A relative GOOGLE_APPLICATION_CREDENTIALS is relative
    to the project's folder, so that every script finds it from any working directory.
    """
    for name, value in dotenv_values(env_file).items():
        if value and not os.environ.get(name):
            os.environ[name] = value
    key_file = os.environ.pop("GOOGLE_APPLICATION_CREDENTIALS", "")
    if key_file:
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(PROJECT_FOLDER / key_file)
    elif DEFAULT_KEY_FILE.is_file():
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(DEFAULT_KEY_FILE)


def require(value: str | None, name: str, flag: str) -> str:
    """Return `value`, or raise ConfigurationError where it is missing or still a placeholder."""
    if not value:
        raise ConfigurationError(f"{name} is not set: give {flag}, or set {name} in .env.")
    if value.startswith(PLACEHOLDER_PREFIX):
        raise ConfigurationError(
            f"{name} is still the placeholder '{value}': edit {name} in .env, or give {flag}."
        )
    return value


def storage_client(project_id: str) -> StorageClient:
    """Return a Cloud Storage client; the library itself follows STORAGE_EMULATOR_HOST."""
    from google.cloud.storage import Client as StorageClient

    return StorageClient(project=project_id)


def bigquery_client(project_id: str, location: str) -> bigquery.Client:
    """Return a BigQuery client for jobs in `location`, a region or multi-region."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    # the library follows BIGQUERY_EMULATOR_HOST but would still ask for real credentials
    emulated = os.environ.get("BIGQUERY_EMULATOR_HOST")
    credentials = AnonymousCredentials() if emulated else None  # type: ignore[no-untyped-call]
    return bigquery.Client(project=project_id, location=location, credentials=credentials)
