"""The name of what events are published to, as state and checkpoint keep it."""

from __future__ import annotations

import re

from ingestion.settings import ConfigurationError, setting

LOCAL_ONLY = "local only"

_TOPIC_ID = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}")


def topic_path(project_id: str, topic_id: str) -> str:
    """Return a topic's full name; ConfigurationError where it can be none."""
    if not _TOPIC_ID.fullmatch(topic_id):
        raise ConfigurationError(f"'{topic_id}' is no name of a Pub/Sub topic: see --topic.")
    return f"projects/{project_id}/topics/{topic_id}"


def topic_destination(project_id: str, topic_id: str) -> str:
    """Return a topic's full name, with the emulator's address where one stands in for Pub/Sub."""
    emulator = setting("PUBSUB_EMULATOR_HOST")
    path = topic_path(project_id, topic_id)
    return f"{path} at {emulator}" if emulator else path
