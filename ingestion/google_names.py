"""What Google takes as a name: told before it is asked, which would say it later and worse."""

from __future__ import annotations

import re

from ingestion.settings import EMULATORS, ConfigurationError, require, setting

# the form of each, and how a sentence says it
FORMS = {
    # https://cloud.google.com/resource-manager/docs/creating-managing-projects; old ones of a
    # domain begin with it
    "project id": (
        r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]",
        "has 6 to 30 small letters, digits and hyphens, and is neither its name nor its number",
    ),
    # https://cloud.google.com/storage/docs/buckets#naming
    "name of a bucket": (
        r"(?!goog|.*\.\.|.*[^.]{64}|\d+(\.\d+){3}\Z)(?=.{3,222}\Z)[a-z0-9][a-z0-9._-]*[a-z0-9]",
        "has 3 to 63 small letters, digits, '-', '_' and '.', without gs:// or goog before them",
    ),
    # https://cloud.google.com/bigquery/docs/datasets#dataset-naming
    "name of a dataset": (
        r"[A-Za-z0-9_]{1,1024}",
        "has letters, digits and '_' only, without the project before them",
    ),
    # https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names
    "name of a Pub/Sub topic": (
        r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}",
        "has 3 to 255 letters, digits and -_.~+%, a letter first, without projects/ or goog before",
    ),
    # https://cloud.google.com/bigquery/docs/locations
    "region": (
        r"(?i:[a-z]+(-[a-z]+)*(-?[0-9]+)?)",
        "is one such as europe-west9 or EU, and not a zone in it",
    ),
}


def require_name(kind: str, value: str | None, *, flag: str = "", name: str = "") -> str:
    """Return a name of one of FORMS; it is given by a flag, by a setting, or by either.

    Raises ConfigurationError where it is missing, still a placeholder, or none that Google takes.
    """
    found = require(value, name, flag) if name else value or ""
    form, allowed = FORMS[kind]
    if not re.fullmatch(form, found):
        ways = [f"give {flag}"] * bool(flag) + [f"set {name} in .env"] * bool(name)
        raise ConfigurationError(f"{found!a} is no {kind}: {', or '.join(ways)}; it {allowed}.")
    return found


def require_project(value: str | None) -> str:
    """Return the id of the project; emulators take what Google would not."""
    if any(setting(emulator) for emulator in EMULATORS):
        return require(value, "GCP_PROJECT_ID", "--project-id")
    return require_name("project id", value, flag="--project-id", name="GCP_PROJECT_ID")
