# Alerts on what runs by itself, where an e-mail address is given. Failure is told by what happened,
# absence by what did not: an execution that never started says nothing at all. The rules are in
# alert_rules.tf and alert_rules_absence.tf.
resource "google_monitoring_alert_policy" "event" {
  for_each = local.event_alerts

  display_name          = "${each.value.display_name} (${var.environment})"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]

  conditions {
    display_name = each.value.display_name

    condition_threshold {
      filter          = each.value.filter
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.threshold
      duration        = "${each.value.duration}s"

      aggregations {
        alignment_period     = "${each.value.window}s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    content = each.value.runbook
  }
}

resource "google_monitoring_alert_policy" "absence" {
  for_each = local.absence_alerts

  display_name          = "${each.value.display_name} (${var.environment})"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]

  conditions {
    display_name = each.value.display_name

    condition_absent {
      filter   = each.value.filter
      duration = "${each.value.duration}s"

      aggregations {
        alignment_period     = "${each.value.window}s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    content = each.value.runbook
  }
}
