# Alerts exist where an e-mail address is given. They watch the path into bronze: carts-events-pull
# has no reader in this project, so its backlog says nothing.
locals {
  alerts = var.alert_email == null ? {} : {
    stuck = {
      display_name = "Cart events wait for BigQuery for over 10 minutes"
      subscription = google_pubsub_subscription.bigquery.name
      metric       = "oldest_unacked_message_age"
      labels       = ""
      aligner      = "ALIGN_MAX"
      period       = "60s"
      duration     = "300s"
      threshold    = 600
      severity     = "CRITICAL"
      content      = <<-EOT
        Nothing is lost before event_retention has passed. Look at the subscription's state and
        at carts_events_raw.
      EOT
    }
    dead = {
      display_name = "Cart events are dead letters"
      subscription = google_pubsub_subscription.dead_letter.name
      metric       = "num_undelivered_messages"
      labels       = ""
      aligner      = "ALIGN_MAX"
      period       = "60s"
      duration     = "300s"
      threshold    = 0
      severity     = "ERROR"
      content      = <<-EOT
        Read them within 31 days; they stay until they are acknowledged:
        gcloud pubsub subscriptions pull ${google_pubsub_subscription.dead_letter.name} --limit=10
      EOT
    }
    # a subscription's state is no metric; one that is not ACTIVE fails each write
    refused = {
      display_name = "BigQuery refuses cart events"
      subscription = google_pubsub_subscription.bigquery.name
      metric       = "push_request_count"
      labels       = "metric.labels.response_class != \"ack\""
      aligner      = "ALIGN_DELTA"
      # one message that is refused for good is tried seven times in its first 15 minutes
      period    = "900s"
      duration  = "0s"
      threshold = 5
      severity  = "ERROR"
      content   = <<-EOT
        ACTIVE, PERMISSION_DENIED, NOT_FOUND or SCHEMA_MISMATCH is said by:
        gcloud pubsub subscriptions describe ${google_pubsub_subscription.bigquery.name} --format='value(bigqueryConfig.state)'
        A terraform apply restores grants, table and schema. What is a dead letter by then comes
        back, and is counted once, with a time before the trouble:
        gcloud pubsub subscriptions seek ${google_pubsub_subscription.bigquery.name} --time=TIME
      EOT
    }
  }
}

resource "google_monitoring_notification_channel" "email" {
  for_each = toset(var.alert_email[*])

  display_name = "Fake Store pipeline (${var.environment})"
  type         = "email"
  labels       = { email_address = each.key }
}

resource "google_monitoring_alert_policy" "subscription" {
  for_each = local.alerts

  display_name          = "${each.value.display_name} (${var.environment})"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]

  conditions {
    display_name = each.value.display_name

    condition_threshold {
      filter = join(" AND ", compact([
        "resource.type = \"pubsub_subscription\"",
        "resource.labels.subscription_id = \"${each.value.subscription}\"",
        "metric.type = \"pubsub.googleapis.com/subscription/${each.value.metric}\"",
        each.value.labels,
      ]))
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.threshold
      duration        = each.value.duration

      aggregations {
        alignment_period     = each.value.period
        per_series_aligner   = each.value.aligner
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    content = each.value.content
  }
}
