# What must happen, and is told where it does not. An absence is told after a first success only, so
# what never began is told by alert_rules.tf.
locals {
  absence_alerts = !local.is_unattended || var.alert_email == null ? {} : {
    day_missing = {
      display_name = "No day has succeeded for 25 hours"
      filter       = "${local.day_ended} AND metric.labels.status = \"SUCCEEDED\""
      # Absence reaches 23.5 hours and a day has 24: a success counts for the hour and a half after it.
      # The two may be 25 hours together, so retries (35 minutes) do not make it tell.
      window   = 5400
      duration = 84600
      runbook  = <<-EOT
        Told after the first success only. Did the clock tick, and what became of the execution?
        gcloud scheduler jobs describe fake-store-daily --location=${var.gcp_region}
        gcloud workflows executions list fake-store-daily --location=${var.gcp_region} --limit=3
        To make up for it now: gcloud workflows run fake-store-daily --location=${var.gcp_region}
      EOT
    }
    poller_silent = {
      display_name = "The carts were not polled"
      filter       = local.user_metric["polls"]
      window       = 300
      duration     = max(1800, 3 * var.poll_interval_seconds)
      runbook      = <<-EOT
        No answer was believed: the source is down or refuses Google's addresses (403), the scheduler
        is paused, or the poller does not start. Told after the first good poll only.
        gcloud scheduler jobs describe fake-store-poller --location=${var.gcp_region}
        ${format(local.logs, "poller")}
        python near_realtime_ingestion_2.py --state-bucket ${local.state_bucket_name} --status
        Changes that come and go in the meantime are not seen; all others are, with the next good poll.
      EOT
    }
  }
}
