locals {
  datasets = {
    bronze = { dataset_id = var.bq_dataset, description = "What the sources said, as they said it." }
    silver = { dataset_id = "silver_data", description = "Typed and deduplicated; written by dbt." }
    gold   = { dataset_id = "gold_data", description = "Star schema and KPIs; written by dbt." }
  }

  tables = {
    carts_events_raw = {
      description  = "One row per delivery of a cart event, written by the BigQuery subscription; an event may stand here twice."
      partitioning = "publish_time"
      clustering   = null
    }
    carts_raw = {
      description  = "One row per cart and batch run that reads the carts."
      partitioning = "_ingested_at"
      clustering   = ["_run_id"]
    }
    ingestion_runs = {
      description  = "One row per entity and batch run."
      partitioning = "started_at"
      clustering   = ["entity"]
    }
    products_raw = {
      description  = "One row per product and batch run."
      partitioning = "_ingested_at"
      clustering   = ["_run_id"]
    }
    users_raw = {
      description  = "One row per user and batch run, without the password."
      partitioning = "_ingested_at"
      clustering   = ["_run_id"]
    }
  }
}

resource "google_bigquery_dataset" "layer" {
  # checkov:skip=CKV_GCP_81: encrypted with Google's keys; a key of one's own adds a way to lose the data
  for_each = local.datasets

  dataset_id  = each.value.dataset_id
  description = each.value.description
  location    = var.gcp_region
  labels      = { layer = each.key }

  deletion_policy = local.deletion_policy
  # silver and gold hold tables that dbt made and Terraform does not know
  delete_contents_on_destroy = !var.deletion_protection
}

# Silver's and gold's tables are dbt's. Partitions never expire: bronze is the history.
resource "google_bigquery_table" "bronze" {
  # checkov:skip=CKV_GCP_80: encrypted with Google's keys; a key of one's own adds a way to lose the data
  for_each = local.tables

  dataset_id  = google_bigquery_dataset.layer["bronze"].dataset_id
  table_id    = each.key
  description = each.value.description
  schema      = file("${path.module}/schemas/${each.key}.json")
  labels      = { layer = "bronze" }

  time_partitioning {
    type  = "DAY"
    field = each.value.partitioning
  }
  clustering = each.value.clustering
  # a query that would read all of history is refused; the manifest is a row per entity and run
  require_partition_filter = each.key != "ingestion_runs"

  deletion_protection = var.deletion_protection
}
