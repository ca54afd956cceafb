output "BQ_DATASET" {
  description = "BQ_DATASET for .env."
  value       = google_bigquery_dataset.layer["bronze"].dataset_id
}

output "GCP_PROJECT_ID" {
  description = "GCP_PROJECT_ID for .env."
  value       = var.gcp_project_id
}

output "GCP_REGION" {
  description = "GCP_REGION for .env."
  value       = var.gcp_region
}

output "GCS_BUCKET_NAME" {
  description = "GCS_BUCKET_NAME for .env."
  value       = google_storage_bucket.raw.name
}

output "STATE_BUCKET_NAME" {
  description = "STATE_BUCKET_NAME for .env: with it --status looks at the poller in Cloud Run; null without image."
  value       = one([for bucket in google_storage_bucket.state : bucket.name])
}

output "dbt_service_account" {
  description = "Address of the service account that dbt runs as."
  value       = google_service_account.stage["dbt"].email
}

output "dotenv" {
  description = "The four lines for .env: terraform output -raw dotenv."
  value       = <<-EOT
    GCP_PROJECT_ID=${var.gcp_project_id}
    GCP_REGION=${var.gcp_region}
    BQ_DATASET=${google_bigquery_dataset.layer["bronze"].dataset_id}
    GCS_BUCKET_NAME=${google_storage_bucket.raw.name}
  EOT
}

output "ingestion_service_account" {
  description = "Address of the service account that the ingestion scripts run as."
  value       = google_service_account.stage["ingestion"].email
}

output "registry" {
  description = "Where 'make push' puts the image; null until registry or image is given."
  value = one([
    for repository in google_artifact_registry_repository.image :
    "${var.gcp_region}-docker.pkg.dev/${var.gcp_project_id}/${repository.repository_id}"
  ])
}

output "report" {
  description = "Where report_readers open the daily report; null without image."
  value       = one([for bucket in google_storage_bucket.report : "https://storage.cloud.google.com/${bucket.name}/index.html"])
}

output "topic" {
  description = "Full name of the topic that near_realtime_ingestion_2.py publishes to."
  value       = google_pubsub_topic.event.id
}
