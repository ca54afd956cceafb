"""The name of what events are published to, as state and checkpoint keep it."""

from __future__ import annotations

from ingestion.google_names import require_name
from ingestion.settings import emulator

LOCAL_ONLY = "local only"


def topic_path(project_id: str, topic_id: str) -> str:
    """Return a topic's full name; ConfigurationError where it can be none."""
    name = require_name("name of a Pub/Sub topic", topic_id, flag="--topic")
    return f"projects/{project_id}/topics/{name}"


def topic_destination(project_id: str, topic_id: str) -> str:
    """Return a topic's full name, with the emulator's address where one stands in for Pub/Sub."""
    host = emulator("PUBSUB_EMULATOR_HOST")
    path = topic_path(project_id, topic_id)
    return f"{path} at {host}" if host else path
