# Wrong input is refused by the plan, with a sentence, before anything is made.
variables {
  environment     = "dev"
  gcp_project_id  = "fake-store-dev"
  gcs_bucket_name = "fake-store-dev-raw"
}

override_data {
  target = data.google_project.this
  values = { number = "424242" }
}

run "placeholder_project" {
  command = plan

  variables {
    gcp_project_id = "your-project-id"
  }

  expect_failures = [var.gcp_project_id]
}

run "project_number" {
  command = plan

  variables {
    gcp_project_id = "123456789012"
  }

  expect_failures = [var.gcp_project_id]
}

run "project_name_with_capitals" {
  command = plan

  variables {
    gcp_project_id = "My Project"
  }

  expect_failures = [var.gcp_project_id]
}

run "placeholder_bucket" {
  command = plan

  variables {
    gcs_bucket_name = "your-project-id-raw-data-2026-xyz"
  }

  expect_failures = [var.gcs_bucket_name]
}

run "bucket_name_that_is_taken_everywhere" {
  command = plan

  variables {
    gcs_bucket_name = "rawdata"
  }

  expect_failures = [var.gcs_bucket_name]
}

run "bucket_name_with_capitals" {
  command = plan

  variables {
    gcs_bucket_name = "Fake-Store-Raw"
  }

  expect_failures = [var.gcs_bucket_name]
}

run "bucket_name_with_dots" {
  command = plan

  variables {
    gcs_bucket_name = "raw.example.com"
  }

  expect_failures = [var.gcs_bucket_name]
}

run "bucket_name_of_google" {
  command = plan

  variables {
    gcs_bucket_name = "google-raw-data"
  }

  expect_failures = [var.gcs_bucket_name]
}

run "region_that_does_not_exist" {
  command = plan

  variables {
    gcp_region = "europe-west99"
  }

  expect_failures = [var.gcp_region]
}

run "multi_region" {
  command = plan

  variables {
    gcp_region = "EU"
  }

  expect_failures = [var.gcp_region]
}

run "zone_for_a_region" {
  command = plan

  variables {
    gcp_region = "europe-west9-b"
  }

  expect_failures = [var.gcp_region]
}

run "environment_unknown" {
  command = plan

  variables {
    environment = "production"
  }

  expect_failures = [var.environment]
}

run "bronze_over_gold" {
  command = plan

  variables {
    bq_dataset = "gold_data"
  }

  expect_failures = [var.bq_dataset]
}

run "dataset_with_a_hyphen" {
  command = plan

  variables {
    bq_dataset = "bronze-data"
  }

  expect_failures = [var.bq_dataset]
}

run "retention_in_days" {
  command = plan

  variables {
    event_retention = "7d"
  }

  expect_failures = [var.event_retention]
}

run "retention_over_31_days" {
  command = plan

  variables {
    event_retention = "3000000s"
  }

  expect_failures = [var.event_retention]
}

run "raw_objects_deleted_within_two_years" {
  command = plan

  variables {
    raw_retention_days = 90
  }

  expect_failures = [var.raw_retention_days]
}

run "two_alert_addresses" {
  command = plan

  variables {
    alert_email = "a@example.com, b@example.com"
  }

  expect_failures = [var.alert_email]
}

run "impersonation_by_everybody" {
  command = plan

  variables {
    impersonators = ["allUsers"]
  }

  expect_failures = [var.impersonators]
}

run "image_by_tag" {
  command = plan

  variables {
    image = "europe-west9-docker.pkg.dev/fake-store-dev/fake-store/pipeline:latest"
  }

  expect_failures = [var.image]
}

run "image_by_short_digest" {
  command = plan

  variables {
    image = "europe-west9-docker.pkg.dev/fake-store-dev/fake-store/pipeline@sha256:abc"
  }

  expect_failures = [var.image]
}

run "poller_unknown" {
  command = plan

  variables {
    poller = "service"
  }

  expect_failures = [var.poller]
}

run "poll_interval_that_no_clock_ticks" {
  command = plan

  variables {
    poll_interval_seconds = 420
  }

  expect_failures = [var.poll_interval_seconds]
}

run "poll_interval_below_a_minute_for_a_job" {
  command = plan

  variables {
    poll_interval_seconds = 30
  }

  expect_failures = [var.poll_interval_seconds]
}

run "daily_schedule_twice_a_day" {
  command = plan

  variables {
    daily_schedule = "0 4,16 * * *"
  }

  expect_failures = [var.daily_schedule]
}

run "budget_of_nothing" {
  command = plan

  variables {
    monthly_budget = 0
  }

  expect_failures = [var.monthly_budget]
}

run "billing_account_by_name" {
  command = plan

  variables {
    billing_account = "My Billing Account"
  }

  expect_failures = [var.billing_account]
}

run "state_in_the_raw_bucket" {
  command = plan

  variables {
    state_bucket_name = "fake-store-dev-raw"
  }

  expect_failures = [var.state_bucket_name]
}

run "report_for_everybody" {
  command = plan

  variables {
    report_readers = ["allUsers"]
  }

  expect_failures = [var.report_readers]
}

run "report_bucket_with_capitals" {
  command = plan

  variables {
    report_bucket_name = "Fake-Store-Report"
  }

  expect_failures = [var.report_bucket_name]
}

run "api_without_a_scheme" {
  command = plan

  variables {
    fake_store_api_url = "fakestoreapi.com"
  }

  expect_failures = [var.fake_store_api_url]
}

run "everybody_as_gold_reader" {
  command = plan

  variables {
    gold_readers = ["allAuthenticatedUsers"]
  }

  expect_failures = [var.gold_readers]
}
