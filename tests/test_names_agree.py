"""One name for one thing: `.env`, Terraform, the scripts' defaults, dbt and the local GCP agree."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

import batch_ingestion
import near_realtime_ingestion_2
import start_apis_GCP
from ingestion.batch.entities import ENTITIES
from ingestion.batch.lines import envelope
from ingestion.batch.load import MANIFEST_TABLE
from ingestion.project import PROJECT_FOLDER, SCHEMA_FOLDER
from tests.support.terraform_cli import VARIABLES, Terraform

SCHEMAS = {path.stem: json.loads(path.read_text()) for path in SCHEMA_FOLDER.glob("*.json")}
DOTENV = dotenv_values(PROJECT_FOLDER / ".env")
Plan = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def plan(terraform: Terraform) -> Plan:
    return terraform.plan("prod")


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What each ingestion script does without a flag, a variable or a .env."""
    for name in DOTENV:
        monkeypatch.delenv(name, raising=False)
    scripts = (batch_ingestion, near_realtime_ingestion_2)
    return {s.__name__: vars(s.build_parser().parse_args([])) for s in scripts}


def planned(plan: Plan, kind: str) -> list[dict[str, Any]]:
    """Return the planned values of all resources of one type."""
    return [values for address, values in plan.items() if address.startswith(f"{kind}.")]


def bronze_source() -> dict[str, Any]:
    text = (PROJECT_FOLDER / "ey_test_tech/models/bronze/_bronze__sources.yml").read_text()
    source: dict[str, Any] = yaml.safe_load(text)["sources"][0]
    return source


def test_variables_and_outputs_have_the_names_of_dotenv() -> None:
    variables = (PROJECT_FOLDER / "terraform/variables.tf").read_text()
    outputs = (PROJECT_FOLDER / "terraform/outputs.tf").read_text()
    for name in DOTENV.keys() - {"FAKE_STORE_API_URL"}:  # the source is not of Google Cloud
        assert f'variable "{name.lower()}"' in variables
        assert f'output "{name}"' in outputs


def test_region_and_bronze_dataset_are_the_same_everywhere(
    plan: Plan, defaults: dict[str, dict[str, Any]]
) -> None:
    batch = defaults["batch_ingestion"]
    bronze = plan['google_bigquery_dataset.layer["bronze"]']
    assert DOTENV["BQ_DATASET"] == batch["dataset_id"] == bronze["dataset_id"] == "bronze_data"
    assert DOTENV["GCP_REGION"] == batch["region"] == bronze["location"]
    assert plan["google_storage_bucket.raw"]["location"].lower() == bronze["location"]
    for topic in planned(plan, "google_pubsub_topic"):
        regions = topic["message_storage_policy"][0]["allowed_persistence_regions"]
        assert regions == [DOTENV["GCP_REGION"]]


def test_the_topic_is_the_one_that_is_published_to(
    plan: Plan, defaults: dict[str, dict[str, Any]]
) -> None:
    topic = plan["google_pubsub_topic.event"]["name"]
    assert topic == defaults["near_realtime_ingestion_2"]["topic"]


def test_both_scripts_ask_the_source_of_dotenv(defaults: dict[str, dict[str, Any]]) -> None:
    assert {script["api_url"] for script in defaults.values()} == {DOTENV["FAKE_STORE_API_URL"]}


def test_each_schema_file_is_the_schema_of_one_bronze_table(plan: Plan) -> None:
    tables = planned(plan, "google_bigquery_table")
    assert {table["table_id"]: json.loads(table["schema"]) for table in tables} == SCHEMAS
    assert {table["dataset_id"] for table in tables} == {"bronze_data"}


def test_partition_and_cluster_columns_exist_in_the_schemas(plan: Plan) -> None:
    for table in planned(plan, "google_bigquery_table"):
        types = {column["name"]: column["type"] for column in SCHEMAS[table["table_id"]]}
        assert types[table["time_partitioning"][0]["field"]] == "TIMESTAMP"
        assert set(table["clustering"] or []) <= types.keys()


def test_the_batch_stage_writes_the_columns_of_its_tables() -> None:
    line = json.loads(envelope("run", "now", "url") + b"{}}")
    for entity in ENTITIES:
        assert {column["name"] for column in SCHEMAS[f"{entity}_raw"]} == line.keys()
    assert MANIFEST_TABLE in SCHEMAS


def test_the_events_table_has_the_columns_that_write_metadata_writes() -> None:
    # https://cloud.google.com/pubsub/docs/bigquery#write_metadata
    assert [(c["name"], c["type"], c["mode"]) for c in SCHEMAS["carts_events_raw"]] == [
        ("subscription_name", "STRING", "NULLABLE"),
        ("message_id", "STRING", "NULLABLE"),
        ("publish_time", "TIMESTAMP", "NULLABLE"),
        ("data", "JSON", "NULLABLE"),
        ("attributes", "JSON", "NULLABLE"),
    ]


def test_dbt_reads_the_tables_and_columns_of_the_schemas() -> None:
    source = bronze_source()
    assert "env_var('BQ_DATASET', 'bronze_data')" in source["schema"]
    columns = {t["name"]: [c["name"] for c in t["columns"]] for t in source["tables"]}
    assert columns == {name: [c["name"] for c in schema] for name, schema in SCHEMAS.items()}


def test_dbt_writes_the_datasets_that_terraform_makes(plan: Plan) -> None:
    project = yaml.safe_load((PROJECT_FOLDER / "ey_test_tech/dbt_project.yml").read_text())
    profiles = yaml.safe_load((PROJECT_FOLDER / "ey_test_tech/profiles.yml").read_text())
    layers = project["models"]["ey_test_tech"]
    for layer in ("silver", "gold"):
        made = plan[f'google_bigquery_dataset.layer["{layer}"]']["dataset_id"]
        assert layers[layer]["+schema"] == made
    assert {output["dataset"] for output in profiles["ey_test_tech"]["outputs"].values()} == {
        "silver_data"
    }
    for output in profiles["ey_test_tech"]["outputs"].values():
        assert f"env_var('GCP_REGION', '{DOTENV['GCP_REGION']}')" in output["location"]


def test_every_service_that_terraform_talks_to_is_among_the_apis(plan: Plan) -> None:
    services = {
        "google_bigquery": "bigquery.googleapis.com",
        "google_monitoring": "monitoring.googleapis.com",
        "google_project": "cloudresourcemanager.googleapis.com",
        "google_pubsub": "pubsub.googleapis.com",
        "google_service": "iam.googleapis.com",
        "google_storage": "storage.googleapis.com",
    }
    kinds = {"_".join(address.split("_")[:2]) for address in plan if address.startswith("google_")}
    assert {services[kind] for kind in kinds} | {services["google_monitoring"]} <= set(
        start_apis_GCP.APIS
    )


def test_the_local_gcp_has_the_datasets_and_tables_of_the_plan(gcp: Any, plan: Plan) -> None:
    for dataset in planned(plan, "google_bigquery_dataset"):
        made = gcp.clients.bigquery.get_dataset(dataset["dataset_id"])
        assert made.location.lower() == dataset["location"]
    for table in planned(plan, "google_bigquery_table"):
        made = gcp.clients.bigquery.get_table(f"{table['dataset_id']}.{table['table_id']}")
        columns = [field.to_api_repr() for field in made.schema]
        planned_columns = json.loads(table["schema"])
        for key in ("name", "type", "mode"):
            assert [c[key] for c in columns] == [c[key] for c in planned_columns]
        partitioning = table["time_partitioning"][0]
        assert made.time_partitioning.type_ == partitioning["type"]
        assert made.time_partitioning.field == partitioning["field"]
        assert (made.clustering_fields or []) == (table["clustering"] or [])


@pytest.mark.usefixtures("pubsub_emulator")
def test_the_local_gcp_has_the_topics_and_subscriptions_of_the_plan(gcp: Any, plan: Plan) -> None:
    project = f"projects/{gcp.project_id}"
    for topic in planned(plan, "google_pubsub_topic"):
        gcp.clients.publisher.get_topic(topic=f"{project}/topics/{topic['name']}", timeout=60)
    topics = {
        "bigquery": "carts-events",
        "dead_letter": "carts-events-dead-letter",
        "pull": "carts-events",
    }
    for name, topic in topics.items():
        subscription = plan[f"google_pubsub_subscription.{name}"]
        path = f"{project}/subscriptions/{subscription['name']}"
        made = gcp.clients.subscriber.get_subscription(subscription=path, timeout=60)
        assert made.topic == f"{project}/topics/{topic}"
        ordering = bool(subscription["enable_message_ordering"])
        assert made.enable_message_ordering == ordering
        once = bool(subscription["enable_exactly_once_delivery"])
        assert made.enable_exactly_once_delivery == once
        for policy in subscription["dead_letter_policy"]:
            dead_letter_topic = f"{project}/topics/carts-events-dead-letter"
            assert made.dead_letter_policy.dead_letter_topic == dead_letter_topic
            attempts = policy["max_delivery_attempts"]
            assert made.dead_letter_policy.max_delivery_attempts == attempts


def test_the_local_gcp_has_the_bucket_and_the_names_of_dotenv(gcp: Any) -> None:
    assert DOTENV.keys() <= gcp.environment.keys()
    assert gcp.environment["BQ_DATASET"] == DOTENV["BQ_DATASET"]
    assert gcp.environment["GCP_REGION"] == DOTENV["GCP_REGION"]
    assert gcp.clients.storage.bucket(gcp.environment["GCS_BUCKET_NAME"]).exists(timeout=60)


def test_names_in_the_terraform_variables_reach_the_plan(plan: Plan) -> None:
    assert plan["google_storage_bucket.raw"]["name"] == VARIABLES["gcs_bucket_name"]
    table = plan["google_pubsub_subscription.bigquery"]["bigquery_config"][0]["table"]
    assert table == f"{VARIABLES['gcp_project_id']}.bronze_data.carts_events_raw"
