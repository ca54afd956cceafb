"""What every stage reads before it starts: `.env`, the project, credentials and Google's clients.

Command line over environment over `.env` over default. `STORAGE_EMULATOR_HOST`,
`BIGQUERY_EMULATOR_HOST` and `PUBSUB_EMULATOR_HOST` send the clients to the local GCP, with
anonymous credentials. Google's libraries are imported where they are used, so that a run
with `--local-only` starts without them.
"""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dotenv import dotenv_values

from ingestion.addresses import check_address
from ingestion.project import PROJECT_FOLDER

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud import bigquery
    from google.cloud.storage import Client as StorageClient

DEFAULT_KEY_FILE = PROJECT_FOLDER / "credentials" / "gcp-key.json"
DEFAULT_API_URL = "https://fakestoreapi.com"
# what stands in the committed .env until somebody edits it
PLACEHOLDERS = frozenset({"your-project-id", "your-project-id-raw-data-2026-xyz"})

EMULATORS = ("BIGQUERY_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST")


class ConfigurationError(Exception):
    """Wrong or missing configuration, told in one sentence; the scripts end with exit code 2."""


def load_environment(env_file: Path = PROJECT_FOLDER / ".env") -> None:
    """Lay `.env` under the environment, and find the key file.

    An empty variable counts as unset, and so does a placeholder: a container keeps the one that
    stood in `.env` when it was started. A relative GOOGLE_APPLICATION_CREDENTIALS is relative
    to the project's folder, so that every script finds it from any working directory.
    """
    for name, value in _read(env_file).items():
        current = os.environ.get(name)
        if value and (not current or current in PLACEHOLDERS):
            os.environ[name] = value
    key_file = setting("GOOGLE_APPLICATION_CREDENTIALS")
    os.environ.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
    if key_file:
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(PROJECT_FOLDER / key_file)
    elif DEFAULT_KEY_FILE.is_file():
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(DEFAULT_KEY_FILE)


def _read(env_file: Path) -> dict[str, str | None]:
    try:
        # Windows' editors write a byte order mark
        text = env_file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise ConfigurationError(f"{env_file} cannot be read: {error.strerror}.") from None
    if "\0" in text:
        raise ConfigurationError(f"{env_file} is not UTF-8: save it again in that encoding.")
    return dotenv_values(stream=StringIO(text))


def setting(name: str) -> str | None:
    """Return a variable of the environment; one that is empty counts as not set.

    Raises ConfigurationError where quotes or blanks stand around it: `docker run --env-file`
    passes them on, which a shell or `.env` itself does not.
    """
    value = os.environ.get(name)
    if not value:
        return None
    if value != value.strip() or (value[0] == value[-1] and value[0] in "'\""):
        raise ConfigurationError(
            f"{name} is set to {value!r}, with quotes or blanks around it: write {name}=value "
            "without them, as docker's --env-file takes each line as it is."
        )
    return value


def require(value: str | None, name: str, flag: str) -> str:
    """Return `value`, or raise ConfigurationError where it is missing or still a placeholder."""
    if not value:
        raise ConfigurationError(f"{name} is not set: give {flag}, or set {name} in .env.")
    if value in PLACEHOLDERS:
        raise ConfigurationError(
            f"{name} is still the placeholder '{value}': edit {name} in .env, or give {flag}."
        )
    return value


def emulator(name: str) -> str | None:
    """Return the address in one of EMULATORS, in the form of its client; None: it is Google's.

    Raises ConfigurationError where it is in another form, which would look like an outage.
    """
    address = setting(name)
    if not address:
        return None
    is_pubsub = name == "PUBSUB_EMULATOR_HOST"
    url = f"http://{address}" if is_pubsub else address
    try:
        check_address(url)
        parts = urlsplit(url)
        if is_pubsub and (not parts.port or parts.path):
            raise ValueError("is no HOST:PORT, such as 127.0.0.1:8085")
    except ValueError as error:
        raise ConfigurationError(
            f"{name} is {address!a}, which {error}: mend it, or unset it to go to Google Cloud."
        ) from None
    return address


def credentials(emulator_variable: str = "") -> Credentials:
    """Return Google credentials; anonymous ones where `emulator_variable` names an emulator.

    Raises ConfigurationError where neither a key file nor Application Default Credentials
    are found, or the key file cannot be used.
    """
    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import GoogleAuthError

    if emulator(emulator_variable):
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    key_file = setting("GOOGLE_APPLICATION_CREDENTIALS")
    if key_file:
        _check_key_file(Path(key_file))
    try:
        found, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except (GoogleAuthError, OSError, ValueError) as error:
        if key_file:
            raise ConfigurationError(
                f"The key file {key_file} is not a usable key: put another there, or see "
                "Credentials in docs/operating.md."
            ) from error
        raise ConfigurationError(
            "No usable Google credentials: put a key into credentials/gcp-key.json, or run "
            "'gcloud auth application-default login'."
        ) from error
    return found


def _check_key_file(path: Path) -> None:
    """Raise ConfigurationError that says what is wrong with a key file, and never what it holds."""
    try:
        text = path.read_bytes()
        wrong = "is empty" if not text.strip() else ""
        if not wrong and not isinstance(json.loads(text), dict):
            wrong = "is not a key: it holds no JSON object"
    except FileNotFoundError:
        wrong = "does not exist"
    except OSError as error:
        wrong = f"cannot be read ({error.strerror})"
    except ValueError:
        wrong = "is not a key: it holds no JSON"
    if wrong:
        raise ConfigurationError(
            f"The key file {path} {wrong}: put a key there, or set GOOGLE_APPLICATION_CREDENTIALS "
            "to one; or unset it and run 'gcloud auth application-default login'."
        )


def storage_client(project_id: str) -> StorageClient:
    """Return a Cloud Storage client."""
    from google.cloud.storage import Client as StorageClient

    return StorageClient(project=project_id, credentials=credentials("STORAGE_EMULATOR_HOST"))


def bigquery_client(project_id: str, location: str) -> bigquery.Client:
    """Return a BigQuery client for jobs in `location`, a region or multi-region."""
    from google.cloud import bigquery

    return bigquery.Client(
        project=project_id, location=location, credentials=credentials("BIGQUERY_EMULATOR_HOST")
    )
