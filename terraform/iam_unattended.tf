# One account per job, each role on the one resource that needs it. jobUser and the roles for
# Workflows stand on the project because BigQuery and Workflows know them nowhere else.
locals {
  unattended_accounts = !local.is_unattended ? {} : {
    batch     = "Fake Store: batch ingestion in Cloud Run"
    poller    = "Fake Store: near-real-time ingestion in Cloud Run"
    report    = "Fake Store: report in Cloud Run"
    scheduler = "Fake Store: the clocks that start the poller and the day"
    workflow  = "Fake Store: the workflow that runs batch, dbt and report"
  }

  # dbt runs as the account that it has without an image
  run_accounts = merge(google_service_account.unattended, { dbt = google_service_account.stage["dbt"] })

  unattended_project_roles = !local.is_unattended ? {} : {
    batch     = "roles/bigquery.jobUser"
    report    = "roles/bigquery.jobUser"
    scheduler = "roles/workflows.invoker"
    # it looks whether an earlier execution is still at work
    workflow = "roles/workflows.viewer"
  }

  unattended_bucket_roles = !local.is_unattended ? {} : {
    "batch creates raw objects"    = { account = "batch", bucket = google_storage_bucket.raw.name, role = "roles/storage.objectCreator" }
    "batch reads raw objects"      = { account = "batch", bucket = google_storage_bucket.raw.name, role = "roles/storage.objectViewer" }
    "poller keeps its state"       = { account = "poller", bucket = google_storage_bucket.state["state"].name, role = "roles/storage.objectUser" }
    "report replaces its one page" = { account = "report", bucket = google_storage_bucket.report["report"].name, role = "roles/storage.objectUser" }
  }

  unattended_job_roles = merge(
    !local.is_unattended ? {} : {
      for pair in setproduct(keys(local.daily_jobs), ["run.jobsExecutorWithOverrides", "run.viewer"]) :
      join(" ", pair) => { account = "workflow", job = google_cloud_run_v2_job.stage[pair[0]].name, role = "roles/${pair[1]}" }
    },
    {
      for name, job in google_cloud_run_v2_job.stage :
      name => { account = "scheduler", job = job.name, role = "roles/run.jobsExecutor" }
      if name == "poller"
    },
  )
}

resource "google_service_account" "unattended" {
  for_each = local.unattended_accounts

  account_id   = "fake-store-${each.key}"
  display_name = each.value
}

resource "google_project_iam_member" "unattended" {
  for_each = local.unattended_project_roles

  project = var.gcp_project_id
  role    = each.value
  member  = google_service_account.unattended[each.key].member
}

resource "google_storage_bucket_iam_member" "unattended" {
  for_each = local.unattended_bucket_roles

  bucket = each.value.bucket
  role   = each.value.role
  member = google_service_account.unattended[each.value.account].member
}

resource "google_bigquery_table_iam_member" "batch" {
  for_each = toset(local.is_unattended ? local.ingestion_tables : [])

  dataset_id = google_bigquery_table.bronze[each.key].dataset_id
  table_id   = google_bigquery_table.bronze[each.key].table_id
  role       = "roles/bigquery.dataEditor"
  member     = google_service_account.unattended["batch"].member
}

resource "google_bigquery_dataset_iam_member" "report" {
  for_each = toset(local.is_unattended ? ["gold"] : [])

  dataset_id = google_bigquery_dataset.layer[each.key].dataset_id
  role       = "roles/bigquery.dataViewer"
  member     = google_service_account.unattended["report"].member
}

resource "google_pubsub_topic_iam_member" "poller" {
  for_each = toset(local.is_unattended ? ["poller"] : [])

  topic  = google_pubsub_topic.event.name
  role   = "roles/pubsub.publisher"
  member = google_service_account.unattended[each.key].member
}

resource "google_cloud_run_v2_job_iam_member" "starter" {
  for_each = local.unattended_job_roles

  name     = each.value.job
  location = var.gcp_region
  role     = each.value.role
  member   = google_service_account.unattended[each.value.account].member
}
