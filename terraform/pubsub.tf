resource "google_pubsub_topic" "event" {
  # checkov:skip=CKV_GCP_83: encrypted with Google's keys; a key of one's own adds a way to lose messages
  name                       = "carts-events"
  message_retention_duration = var.event_retention
  deletion_policy            = local.deletion_policy

  # messages are stored where the tables are, whatever region they are published from
  message_storage_policy {
    allowed_persistence_regions = [var.gcp_region]
  }
}

resource "google_pubsub_topic" "dead_letter" {
  # checkov:skip=CKV_GCP_83: encrypted with Google's keys; a key of one's own adds a way to lose messages
  name            = "carts-events-dead-letter"
  deletion_policy = local.deletion_policy

  message_storage_policy {
    allowed_persistence_regions = [var.gcp_region]
  }
}

# Every event into bronze. Not ordered: one refused message would hold back its whole cart, and
# silver orders by (generation, sequence) anyway.
resource "google_pubsub_subscription" "bigquery" {
  name                       = "carts-events-bigquery"
  topic                      = google_pubsub_topic.event.id
  message_retention_duration = var.event_retention
  deletion_policy            = local.deletion_policy

  bigquery_config {
    table = join(".", [
      var.gcp_project_id,
      google_bigquery_table.bronze["carts_events_raw"].dataset_id,
      google_bigquery_table.bronze["carts_events_raw"].table_id,
    ])
    write_metadata = true
  }

  dead_letter_policy {
    dead_letter_topic = google_pubsub_topic.dead_letter.id
    # about 16 hours at the longest backoff: what stops all writes (a lost grant, an outage) must not
    # turn every event into a dead letter before somebody has read the alert
    max_delivery_attempts = 100
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  # without it a subscription that sees nothing for 31 days is gone, and events with it
  expiration_policy {
    ttl = ""
  }

  # Pub/Sub refuses to make it before its agent may write to the table
  depends_on = [terraform_data.iam_propagation]
}

# For a consumer of one's own: in order per cart, acknowledged once. Nothing in this project reads
# it, so messages leave it after event_retention.
resource "google_pubsub_subscription" "pull" {
  name                         = "carts-events-pull"
  topic                        = google_pubsub_topic.event.id
  ack_deadline_seconds         = 60
  enable_exactly_once_delivery = true
  enable_message_ordering      = true
  message_retention_duration   = var.event_retention
  deletion_policy              = local.deletion_policy

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letter.id
    max_delivery_attempts = 10
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  expiration_policy {
    ttl = ""
  }
}

# A dead letter without a subscription is deleted at once; here it waits for a person, as long as
# Pub/Sub lets it.
resource "google_pubsub_subscription" "dead_letter" {
  name                       = "carts-events-dead-letter-pull"
  topic                      = google_pubsub_topic.dead_letter.id
  ack_deadline_seconds       = 60
  message_retention_duration = "2678400s" # 31 days
  deletion_policy            = local.deletion_policy

  expiration_policy {
    ttl = ""
  }
}
