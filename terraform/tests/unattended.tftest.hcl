# What runs by itself: nothing without an image, and what must never change by accident with one.
variables {
  environment     = "prod"
  gcp_project_id  = "fake-store-prod"
  gcs_bucket_name = "fake-store-prod-raw"
  image           = "europe-west9-docker.pkg.dev/fake-store-prod/fake-store/pipeline@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}

override_data {
  target = data.google_project.this
  values = { number = "424242" }
}

run "nothing_without_an_image" {
  command = plan

  variables {
    alert_email     = "data-team@example.com"
    billing_account = "0123AB-4567CD-89EF01"
    image           = null
  }

  assert {
    condition = 0 == sum([
      length(google_artifact_registry_repository.image),
      length(google_billing_budget.month),
      length(google_cloud_run_v2_job.stage),
      length(google_cloud_run_v2_worker_pool.poller),
      length(google_cloud_scheduler_job.clock),
      length(google_logging_metric.line),
      length(google_monitoring_alert_policy.absence),
      length(google_monitoring_alert_policy.event),
      length(google_monitoring_dashboard.pipeline),
      length(google_project_iam_member.unattended),
      length(google_service_account.unattended),
      length(google_storage_bucket.report),
      length(google_storage_bucket.state),
      length(google_workflows_workflow.daily),
    ])
    error_message = "what runs by itself exists only with an image"
  }
}

run "a_job_polls_once_per_tick" {
  command = plan

  variables {
    poller                = "job"
    poll_interval_seconds = 900
  }

  assert {
    condition     = google_cloud_scheduler_job.clock["poller"].schedule == "*/15 * * * *"
    error_message = "the clock ticks at the poll interval"
  }
  assert {
    condition     = contains(google_cloud_run_v2_job.stage["poller"].template[0].template[0].containers[0].args, "--once")
    error_message = "a job polls once and ends"
  }
  assert {
    condition     = length(google_cloud_run_v2_worker_pool.poller) == 0
    error_message = "one kind of poller at a time"
  }
}

run "an_hour_is_a_tick_too" {
  command = plan

  variables {
    poll_interval_seconds = 3600
  }

  assert {
    condition     = google_cloud_scheduler_job.clock["poller"].schedule == "0 * * * *"
    error_message = "cron knows no 60th minute"
  }
}

run "a_pool_polls_as_often_as_it_is_told" {
  command = plan

  variables {
    poller                = "pool"
    poll_interval_seconds = 7
  }

  assert {
    condition = alltrue([
      length(google_cloud_run_v2_worker_pool.poller) == 1,
      !contains(keys(google_cloud_run_v2_job.stage), "poller"),
      !contains(keys(google_cloud_scheduler_job.clock), "poller"),
    ])
    error_message = "a pool needs neither job nor clock"
  }
}

run "names_of_ones_own" {
  command = plan

  variables {
    report_bucket_name = "figures-of-ours"
    state_bucket_name  = "state-of-ours"
  }

  assert {
    condition = alltrue([
      google_storage_bucket.report["report"].name == "figures-of-ours",
      google_storage_bucket.state["state"].name == "state-of-ours",
      contains(google_cloud_run_v2_job.stage["poller"].template[0].template[0].containers[0].args, "state-of-ours"),
      contains(google_cloud_run_v2_job.stage["report"].template[0].template[0].containers[0].args, "gs://figures-of-ours/index.html"),
    ])
    error_message = "the jobs use the buckets that are made"
  }
}
