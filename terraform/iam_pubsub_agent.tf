# Pub/Sub itself, as its service agent, writes to BigQuery and forwards dead letters. Without these
# grants both silently do nothing. start_apis_GCP.py makes the agent exist before it is granted roles.
data "google_project" "this" {
  project_id = var.gcp_project_id
}

locals {
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"

  dead_lettering_subscriptions = {
    bigquery = google_pubsub_subscription.bigquery.name
    pull     = google_pubsub_subscription.pull.name
  }
}

resource "google_bigquery_table_iam_member" "pubsub_agent" {
  for_each = toset(["roles/bigquery.dataEditor", "roles/bigquery.metadataViewer"])

  dataset_id = google_bigquery_table.bronze["carts_events_raw"].dataset_id
  table_id   = google_bigquery_table.bronze["carts_events_raw"].table_id
  role       = each.key
  member     = local.pubsub_agent
}

resource "google_pubsub_topic_iam_member" "pubsub_agent" {
  topic  = google_pubsub_topic.dead_letter.name
  role   = "roles/pubsub.publisher"
  member = local.pubsub_agent
}

# to forward a message is to acknowledge it here
resource "google_pubsub_subscription_iam_member" "pubsub_agent" {
  for_each = local.dead_lettering_subscriptions

  subscription = each.value
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

# A grant takes effect some time after it was answered. Once per new set of grants.
resource "terraform_data" "iam_propagation" {
  triggers_replace = [for grant in google_bigquery_table_iam_member.pubsub_agent : grant.id]

  provisioner "local-exec" {
    command = (
      startswith(abspath(path.root), "/")
      ? "sleep ${var.iam_propagation_seconds}"
      : "ping -n ${var.iam_propagation_seconds + 1} 127.0.0.1 > NUL" # Windows has no sleep
    )
  }
}
