# The rules of alerts.tf. A window counts what happened in it; it must be true for `duration` to tell.
locals {
  user_metric = {
    for name, metric in google_logging_metric.line :
    name => "resource.type = one_of(\"cloud_run_job\", \"cloud_run_worker_pool\") AND metric.type = \"logging.googleapis.com/user/${metric.name}\""
  }
  day_ended = "resource.type = \"workflows.googleapis.com/Workflow\" AND resource.labels.workflow_id = \"fake-store-daily\" AND metric.type = \"workflows.googleapis.com/finished_execution_count\""
  logs      = "gcloud logging read 'resource.labels.job_name=\"fake-store-%s\" AND severity>=WARNING' --freshness=1d --format='value(timestamp,severity,jsonPayload.message,textPayload)'"

  # two polls and some slack, at least ten minutes
  poll_window = max(600, 2 * var.poll_interval_seconds)

  event_alerts = !local.is_unattended || var.alert_email == null ? {} : merge({
    crashed = {
      display_name = "A container could not start or was ended by Cloud Run"
      filter       = local.user_metric["crashes"]
      threshold    = 0
      window       = 600
      duration     = 0
      severity     = "ERROR"
      runbook      = <<-EOT
        Nothing is lost: the next run goes on where this one was. Cloud Run says why:
        gcloud logging read 'log_id("run.googleapis.com/varlog/system") AND severity>=ERROR' --freshness=1d
        Out of memory: raise `memory` in unattended.tf. No such image, or a wrong start: give the
        digest before this one as `image` and apply.
      EOT
    }
    day_failed = {
      display_name = "Batch, dbt or report failed"
      filter       = "${local.day_ended} AND metric.labels.status != \"SUCCEEDED\""
      threshold    = 0
      window       = 600
      duration     = 0
      severity     = "ERROR"
      runbook      = <<-EOT
        The execution's error has the three exit codes, or names the other execution that was at work:
        gcloud workflows executions list fake-store-daily --location=${var.gcp_region} --limit=3
        1 is told by the job's own log (put batch, dbt or report in):
        ${format(local.logs, "batch")}
        3 is an outage of Google Cloud that four attempts did not outlast. When it is over:
        gcloud workflows run fake-store-daily --location=${var.gcp_region}
      EOT
    }
    dead_lettered = {
      display_name = "Pub/Sub refused cart events"
      filter       = local.user_metric["dead_lettered"]
      threshold    = 0
      window       = 600
      duration     = 0
      severity     = "ERROR"
      runbook      = <<-EOT
        The events and the reasons lie in gs://${local.state_bucket_name}/near_realtime/, below dead_letter.
        When the reason is gone, this sends them again, in order, as somebody with the poller's roles:
        python near_realtime_ingestion_2.py --state-bucket ${local.state_bucket_name} --replay-dead-letters
      EOT
    }
    fenced = {
      display_name = "A poller was fenced by another one"
      filter       = local.user_metric["fenced"]
      threshold    = 0
      window       = 600
      duration     = 0
      severity     = "WARNING"
      runbook      = <<-EOT
        Nothing is lost and nothing counted twice: the one that was fenced stopped. Once, after a deploy
        or a slow poll, is no trouble. Again and again, two pollers share one state bucket: look for a
        second one, on a machine of your own or in another project, and stop it. Who holds it:
        python near_realtime_ingestion_2.py --state-bucket ${local.state_bucket_name} --status
      EOT
    }
    waiting = {
      display_name = "Cart events wait for Pub/Sub"
      filter       = local.user_metric["polls_waiting"]
      threshold    = 0
      window       = local.poll_window
      # longer than the window, so that one such poll says nothing
      duration = local.poll_window + 300
      severity = "ERROR"
      runbook  = <<-EOT
        Nothing is lost: they lie in gs://${local.state_bucket_name}/near_realtime/ and leave with the first
        poll that reaches the topic. Which poll cannot, and why:
        ${format(local.logs, "poller")}
        A refused grant or a missing topic is mended by a terraform apply.
      EOT
    }
    }, var.poller != "job" ? {} : {
    poller_fails = {
      display_name = "Most runs of the poller fail"
      filter       = "resource.type = \"cloud_run_job\" AND resource.labels.job_name = \"fake-store-poller\" AND metric.type = \"run.googleapis.com/job/completed_execution_count\" AND metric.labels.result = \"failed\""
      threshold    = floor(1.5 * local.poll_window / var.poll_interval_seconds)
      window       = 3 * local.poll_window
      duration     = 0
      severity     = "ERROR"
      runbook      = <<-EOT
        Told by the executions themselves, so also where the script never began:
        gcloud run jobs executions list --job=fake-store-poller --region=${var.gcp_region} --limit=5
        ${format(local.logs, "poller")}
        A source that answers 403 refuses Google's addresses: give fake_store_api_url another one.
      EOT
    }
  })
}
