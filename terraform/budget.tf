# With `billing_account`: a mail at half of the budget and when a month will, or does, exceed it. A
# budget tells and stops nothing. It counts all of the project, a day late.
resource "google_billing_budget" "month" {
  for_each = toset(local.is_unattended ? var.billing_account[*] : [])

  billing_account = each.key
  display_name    = "Fake Store pipeline (${var.environment})"

  budget_filter {
    projects = ["projects/${data.google_project.this.number}"]
  }

  amount {
    specified_amount {
      # in the currency of the billing account
      units = tostring(var.monthly_budget)
    }
  }

  threshold_rules {
    threshold_percent = 0.5
  }

  dynamic "threshold_rules" {
    for_each = toset(["CURRENT_SPEND", "FORECASTED_SPEND"])

    content {
      threshold_percent = 1
      spend_basis       = threshold_rules.key
    }
  }

  dynamic "all_updates_rule" {
    for_each = google_monitoring_notification_channel.email

    content {
      monitoring_notification_channels = [all_updates_rule.value.id]
    }
  }
}
