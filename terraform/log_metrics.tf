# Counted from what the scripts log as JSON (ingestion/logs.py). The fields are those of real lines:
# tests/terraform/test_log_metrics.py runs the stages and looks for them.
locals {
  # a poller's lines, whichever way it runs
  poller_resource = {
    job  = "resource.type = \"cloud_run_job\" AND resource.labels.job_name = \"fake-store-poller\""
    pool = "resource.type = \"cloud_run_worker_pool\" AND resource.labels.worker_pool_name = \"fake-store-poller\""
  }[var.poller]
  batch_resource = "resource.type = \"cloud_run_job\" AND resource.labels.job_name = \"fake-store-batch\""

  log_metrics = !local.is_unattended ? {} : {
    crashes = {
      description = "Containers that Cloud Run could not start, or ended: wrong start, out of memory."
      # Cloud Run's own words; a killed process writes none
      resource = "resource.type = (\"cloud_run_job\" OR \"cloud_run_worker_pool\")"
      lines    = "logName = \"projects/${var.gcp_project_id}/logs/run.googleapis.com%2Fvarlog%2Fsystem\" AND severity >= ERROR"
      labels   = {}
    }
    dead_lettered = {
      description = "Polls with events that Pub/Sub refused."
      resource    = local.poller_resource
      lines       = "jsonPayload.dead_lettered > 0"
      labels      = {}
    }
    entities_failed = {
      description = "Entities that a batch run could not bring to bronze."
      resource    = local.batch_resource
      lines       = "jsonPayload.message =~ \"^finished \" AND jsonPayload.status = \"failed\""
      labels      = { entity = "EXTRACT(jsonPayload.entity)" }
    }
    fenced = {
      description = "Pollers that found another one's writing where theirs should stand."
      resource    = local.poller_resource
      lines       = "jsonPayload.message =~ \"^fenced \""
      labels      = {}
    }
    polls = {
      description = "Polls whose answer was believed."
      resource    = local.poller_resource
      lines       = "jsonPayload.message =~ \"^polled \" AND jsonPayload.poll > 0"
      labels      = {}
    }
    polls_failed = {
      description = "Polls whose answer was refused, or never came."
      resource    = local.poller_resource
      lines       = "jsonPayload.message =~ \"^failed \" AND jsonPayload.poll > 0"
      labels      = {}
    }
    polls_waiting = {
      description = "Polls after which events wait for Pub/Sub."
      resource    = local.poller_resource
      lines       = "jsonPayload.poll > 0 AND jsonPayload.waiting > 0"
      labels      = {}
    }
  }
}

resource "google_logging_metric" "line" {
  for_each = local.log_metrics

  name             = "fake_store/${each.key}"
  description      = each.value.description
  filter           = "${each.value.resource} AND ${each.value.lines}"
  label_extractors = each.value.labels

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"

    dynamic "labels" {
      for_each = each.value.labels

      content {
        key = labels.key
      }
    }
  }
}
