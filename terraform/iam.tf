# Roles stand on the one resource that needs them. The exception is jobUser: BigQuery knows it on
# projects only. It reads and writes nothing by itself.
locals {
  service_accounts = {
    ingestion = { account_id = "fake-store-ingestion", display_name = "Fake Store: batch and near-real-time ingestion" }
    dbt       = { account_id = "fake-store-dbt", display_name = "Fake Store: dbt" }
  }

  # create and read, no deleting and no overwriting
  ingestion_bucket_roles = ["roles/storage.objectCreator", "roles/storage.objectViewer"]

  # what the batch stage loads; carts_events_raw is Pub/Sub's to write
  ingestion_tables = ["carts_raw", "ingestion_runs", "products_raw", "users_raw"]

  dbt_dataset_roles = {
    bronze = "roles/bigquery.dataViewer"
    silver = "roles/bigquery.dataEditor"
    gold   = "roles/bigquery.dataEditor"
  }

  impersonations = {
    for pair in setproduct(keys(local.service_accounts), var.impersonators) :
    "${pair[0]} by ${pair[1]}" => { account = pair[0], member = pair[1] }
  }
}

resource "google_service_account" "stage" {
  for_each = local.service_accounts

  account_id   = each.value.account_id
  display_name = each.value.display_name
}

resource "google_project_iam_member" "job_user" {
  for_each = local.service_accounts

  project = var.gcp_project_id
  role    = "roles/bigquery.jobUser"
  member  = google_service_account.stage[each.key].member
}

resource "google_storage_bucket_iam_member" "ingestion" {
  for_each = toset(local.ingestion_bucket_roles)

  bucket = google_storage_bucket.raw.name
  role   = each.key
  member = google_service_account.stage["ingestion"].member
}

resource "google_bigquery_table_iam_member" "ingestion" {
  for_each = toset(local.ingestion_tables)

  dataset_id = google_bigquery_table.bronze[each.key].dataset_id
  table_id   = google_bigquery_table.bronze[each.key].table_id
  role       = "roles/bigquery.dataEditor"
  member     = google_service_account.stage["ingestion"].member
}

resource "google_pubsub_topic_iam_member" "ingestion" {
  topic  = google_pubsub_topic.event.name
  role   = "roles/pubsub.publisher"
  member = google_service_account.stage["ingestion"].member
}

resource "google_bigquery_dataset_iam_member" "dbt" {
  for_each = local.dbt_dataset_roles

  dataset_id = google_bigquery_dataset.layer[each.key].dataset_id
  role       = each.value
  member     = google_service_account.stage["dbt"].member
}

# Keyless: these people act as a stage with a token of an hour. Nobody, unless named.
resource "google_service_account_iam_member" "impersonator" {
  for_each = local.impersonations

  service_account_id = google_service_account.stage[each.value.account].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.value.member
}
