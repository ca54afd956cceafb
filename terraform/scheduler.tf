# Two clocks. Each call ends when the work is accepted: whether it succeeds is told by alerts.tf.
locals {
  schedules = merge(
    !local.is_unattended ? {} : {
      daily = {
        schedule = var.daily_schedule
        retries  = 3
        uri = join("/", [
          "https://workflowexecutions.googleapis.com/v1/projects", var.gcp_project_id,
          "locations", var.gcp_region, "workflows", google_workflows_workflow.daily["daily"].name, "executions",
        ])
      }
    },
    !local.is_unattended || var.poller != "job" ? {} : {
      poller = {
        # every so many minutes; an hour is the 60th of none
        schedule = var.poll_interval_seconds == 3600 ? "0 * * * *" : "*/${var.poll_interval_seconds / 60} * * * *"
        retries  = 0 # the next tick comes soon enough
        uri = join("/", [
          "https://run.googleapis.com/v2/projects", var.gcp_project_id,
          "locations", var.gcp_region, "jobs", "${google_cloud_run_v2_job.stage["poller"].name}:run",
        ])
      }
    },
  )
}

resource "google_cloud_scheduler_job" "clock" {
  for_each = local.schedules

  name             = "fake-store-${each.key}"
  region           = var.gcp_region
  schedule         = each.value.schedule
  time_zone        = var.time_zone
  attempt_deadline = "30s"

  retry_config {
    retry_count          = each.value.retries
    min_backoff_duration = "60s"
  }

  http_target {
    uri         = each.value.uri
    http_method = "POST"
    headers     = { "Content-Type" = "application/json" }
    body        = base64encode("{}")

    oauth_token {
      service_account_email = google_service_account.unattended["scheduler"].email
    }
  }
}
