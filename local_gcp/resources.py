"""What Terraform creates on Google Cloud, created on the local one from the same schema files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ingestion.project import DEFAULT_REGION, SCHEMA_FOLDER
from local_gcp.clients import Clients

PROJECT_ID = "local-project"
REGION = DEFAULT_REGION
BUCKET_NAME = "local-raw"
STATE_BUCKET_NAME = "local-state"
BRONZE_DATASET = "bronze_data"
DATASETS = (BRONZE_DATASET, "silver_data", "gold_data")
TOPIC = "carts-events"
DEAD_LETTER_TOPIC = "carts-events-dead-letter"

SETUP_SECONDS = 60.0


@dataclass(frozen=True)
class Layout:
    """How a bronze table is partitioned, by day, and clustered."""

    partition_column: str
    cluster_columns: tuple[str, ...] = ()


# a test compares these with Terraform's
BRONZE_TABLES = {
    "products_raw": Layout("_ingested_at", ("_run_id",)),
    "users_raw": Layout("_ingested_at", ("_run_id",)),
    "carts_raw": Layout("_ingested_at", ("_run_id",)),
    "carts_events_raw": Layout("publish_time"),
    "ingestion_runs": Layout("started_at", ("entity",)),
}


def make_buckets(clients: Clients) -> None:
    """Create what lies in Cloud Storage."""
    for name in (BUCKET_NAME, STATE_BUCKET_NAME):
        make_bucket(clients, name)


def make_bucket(clients: Clients, name: str) -> None:
    """Create a bucket."""
    from google.api_core.exceptions import Conflict

    # a server that was killed and started again has it already
    with suppress(Conflict):
        clients.storage.create_bucket(name, location=REGION, timeout=SETUP_SECONDS)


def make_datasets(clients: Clients) -> None:
    """Create bronze, silver and gold."""
    for dataset_id in DATASETS[1:]:
        clients.bigquery.create_dataset(dataset_id, exists_ok=True, timeout=SETUP_SECONDS)
    make_bronze(clients, BRONZE_DATASET)


def make_bronze(clients: Clients, dataset_id: str) -> None:
    """Create a dataset with the bronze tables, as Terraform would."""
    from google.cloud import bigquery

    clients.bigquery.create_dataset(dataset_id, exists_ok=True, timeout=SETUP_SECONDS)
    for name, layout in BRONZE_TABLES.items():
        schema = clients.bigquery.schema_from_json(SCHEMA_FOLDER / f"{name}.json")
        table = bigquery.Table(f"{PROJECT_ID}.{dataset_id}.{name}", schema=schema)
        table.time_partitioning = bigquery.TimePartitioning(field=layout.partition_column)
        table.clustering_fields = layout.cluster_columns or None
        clients.bigquery.create_table(table, exists_ok=True, timeout=SETUP_SECONDS)


def make_topics(clients: Clients) -> None:
    """Create the topics and their subscriptions."""
    dead_letter_topic = make_topic(clients, DEAD_LETTER_TOPIC)
    make_subscription(clients, f"{DEAD_LETTER_TOPIC}-pull", dead_letter_topic)
    topic = make_topic(clients, TOPIC)
    make_subscription(
        clients,
        f"{TOPIC}-pull",
        topic,
        enable_message_ordering=True,
        enable_exactly_once_delivery=True,
        dead_letter_policy={
            "dead_letter_topic": dead_letter_topic,
            "max_delivery_attempts": 10,
        },
    )
    table = f"{PROJECT_ID}.{BRONZE_DATASET}.carts_events_raw"
    make_subscription(
        clients,
        f"{TOPIC}-bigquery",
        topic,
        bigquery_config={"table": table, "write_metadata": True},
        dead_letter_policy={
            "dead_letter_topic": dead_letter_topic,
            "max_delivery_attempts": 100,
        },
    )


def make_topic(clients: Clients, topic_id: str) -> str:
    """Create a topic and return its full name."""
    name = f"projects/{PROJECT_ID}/topics/{topic_id}"
    clients.publisher.create_topic(request={"name": name}, timeout=SETUP_SECONDS)
    return name


def make_subscription(clients: Clients, subscription_id: str, topic: str, **options: Any) -> None:
    """Create a subscription to the topic of that full name."""
    name = f"projects/{PROJECT_ID}/subscriptions/{subscription_id}"
    clients.subscriber.create_subscription(
        request={"name": name, "topic": topic, **options}, timeout=SETUP_SECONDS
    )


def make_pulled_topic(clients: Clients, topic_id: str) -> None:
    """Create a topic, and an ordered subscription `{topic_id}-pull` to read it."""
    topic = make_topic(clients, topic_id)
    make_subscription(clients, f"{topic_id}-pull", topic, enable_message_ordering=True)
