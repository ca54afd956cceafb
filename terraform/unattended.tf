# What runs by itself, in Cloud Run, from the image that `make push` prints. Without `image` nothing
# of it is made.
locals {
  is_unattended = var.image != null

  # the settings of .env, for every job alike
  settings = {
    BQ_DATASET         = google_bigquery_dataset.layer["bronze"].dataset_id
    FAKE_STORE_API_URL = var.fake_store_api_url
    GCP_PROJECT_ID     = var.gcp_project_id
    GCP_REGION         = var.gcp_region
    GCS_BUCKET_NAME    = google_storage_bucket.raw.name
  }

  # what the batch stage loads is what has a raw table; carts_events_raw is Pub/Sub's to write
  entities = [
    for table in keys(local.tables) : trimsuffix(table, "_raw")
    if endswith(table, "_raw") && table != "carts_events_raw"
  ]

  # Memory holds the files too: a container has no disk. Arguments are those of the scripts; a test
  # gives them to the scripts' own parsers.
  daily_jobs = {
    batch = {
      folder  = "/app"
      command = ["python", "batch_ingestion.py"]
      args    = concat(["--entities"], local.entities, ["--log-json", "--json"])
      memory  = "1Gi"
      timeout = "1800s"
    }
    dbt = {
      folder  = "/app/ey_test_tech"
      command = ["sh", "-c"]
      # retry runs what failed and what was skipped for it, in the same container
      args    = ["dbt build || dbt retry"]
      memory  = "2Gi"
      timeout = "3600s"
    }
    report = {
      folder  = "/app"
      command = ["python", "kpi_report.py"]
      args    = ["--output", "gs://${local.report_bucket_name}/index.html"]
      memory  = "1Gi"
      timeout = "900s"
    }
  }

  poller = {
    folder  = "/app"
    command = ["python", "near_realtime_ingestion_2.py"]
    args = concat(
      var.poller == "job" ? ["--once"] : [],
      ["--poll-interval", tostring(var.poll_interval_seconds), "--state-bucket", local.state_bucket_name],
      ["--log-json", "--json"],
    )
    memory = "512Mi"
    # two intervals: a poll that hangs must not keep the next one from its turn for long
    timeout = "${2 * var.poll_interval_seconds}s"
  }
}
