# What must never change by accident, asserted on plans: no account is needed and nothing is made.
variables {
  environment     = "prod"
  gcp_project_id  = "fake-store-prod"
  gcs_bucket_name = "fake-store-prod-raw"
}

override_data {
  target = data.google_project.this
  values = { number = "424242" }
}

run "pubsub_agent_may_write_the_one_table_and_forward_dead_letters" {
  command = plan

  assert {
    condition = (
      { for role, grant in google_bigquery_table_iam_member.pubsub_agent : role => grant.table_id } == {
        "roles/bigquery.dataEditor"     = "carts_events_raw"
        "roles/bigquery.metadataViewer" = "carts_events_raw"
      }
    )
    error_message = "the Pub/Sub agent writes carts_events_raw and no other table"
  }
  assert {
    condition = alltrue([
      google_pubsub_topic_iam_member.pubsub_agent.topic == "carts-events-dead-letter",
      google_pubsub_topic_iam_member.pubsub_agent.role == "roles/pubsub.publisher",
    ])
    error_message = "the Pub/Sub agent publishes dead letters"
  }
  assert {
    condition = (
      { for grant in google_pubsub_subscription_iam_member.pubsub_agent : grant.subscription => grant.role } == {
        carts-events-bigquery = "roles/pubsub.subscriber"
        carts-events-pull     = "roles/pubsub.subscriber"
      }
    )
    error_message = "forwarding is acknowledging: the agent is subscriber of each subscription that dead-letters"
  }
  assert {
    condition = alltrue([
      for member in concat(
        [google_pubsub_topic_iam_member.pubsub_agent.member],
        values(google_bigquery_table_iam_member.pubsub_agent)[*].member,
        values(google_pubsub_subscription_iam_member.pubsub_agent)[*].member,
      ) : member == "serviceAccount:service-424242@gcp-sa-pubsub.iam.gserviceaccount.com"
    ])
    error_message = "these grants are the agent's"
  }
}

run "ingestion_creates_and_appends_but_deletes_nothing" {
  command = plan

  assert {
    condition = (
      keys(google_storage_bucket_iam_member.ingestion) == ["roles/storage.objectCreator", "roles/storage.objectViewer"]
    )
    error_message = "raw objects are created and read, never deleted or overwritten"
  }
  assert {
    condition = (
      { for table, grant in google_bigquery_table_iam_member.ingestion : table => grant.role } == {
        carts_raw      = "roles/bigquery.dataEditor"
        ingestion_runs = "roles/bigquery.dataEditor"
        products_raw   = "roles/bigquery.dataEditor"
        users_raw      = "roles/bigquery.dataEditor"
      }
    )
    error_message = "the batch stage writes its four tables; carts_events_raw is Pub/Sub's"
  }
  assert {
    condition = alltrue([
      google_pubsub_topic_iam_member.ingestion.topic == "carts-events",
      google_pubsub_topic_iam_member.ingestion.role == "roles/pubsub.publisher",
    ])
    error_message = "the near-real-time stage publishes to carts-events"
  }
}

run "dbt_reads_bronze_and_writes_silver_and_gold" {
  command = plan

  assert {
    condition = (
      { for grant in google_bigquery_dataset_iam_member.dbt : grant.dataset_id => grant.role } == {
        bronze_data = "roles/bigquery.dataViewer"
        silver_data = "roles/bigquery.dataEditor"
        gold_data   = "roles/bigquery.dataEditor"
      }
    )
    error_message = "dbt must not be able to change bronze"
  }
}

run "jobs_are_the_only_role_on_the_project" {
  command = plan

  assert {
    condition     = alltrue([for grant in google_project_iam_member.job_user : grant.role == "roles/bigquery.jobUser"])
    error_message = "no role but jobUser stands on the project"
  }
  assert {
    condition     = length(google_service_account_iam_member.impersonator) == 0
    error_message = "nobody impersonates unless named"
  }
}

run "subscriptions_never_expire" {
  command = plan

  assert {
    condition = alltrue([
      google_pubsub_subscription.bigquery.expiration_policy[0].ttl == "",
      google_pubsub_subscription.dead_letter.expiration_policy[0].ttl == "",
      google_pubsub_subscription.pull.expiration_policy[0].ttl == "",
    ])
    error_message = "a subscription without traffic would be gone after 31 days"
  }
}

run "pull_subscription_is_ordered_and_delivers_once" {
  command = plan

  assert {
    condition = alltrue([
      google_pubsub_subscription.pull.enable_message_ordering,
      google_pubsub_subscription.pull.enable_exactly_once_delivery,
    ])
    error_message = "carts-events-pull is ordered and acknowledges once"
  }
  assert {
    condition = alltrue([
      google_pubsub_subscription.pull.dead_letter_policy[0].max_delivery_attempts == 10,
      google_pubsub_subscription.pull.message_retention_duration == "604800s",
    ])
    error_message = "a poison message leaves after ten tries; the rest is kept for a week"
  }
}

run "bigquery_subscription_writes_metadata_as_json_rows" {
  command = plan

  assert {
    condition = (
      google_pubsub_subscription.bigquery.bigquery_config[0].table == "fake-store-prod.bronze_data.carts_events_raw"
    )
    error_message = "events land in carts_events_raw"
  }
  assert {
    condition = alltrue([
      google_pubsub_subscription.bigquery.bigquery_config[0].write_metadata,
      google_pubsub_subscription.bigquery.bigquery_config[0].use_table_schema != true,
      google_pubsub_subscription.bigquery.bigquery_config[0].use_topic_schema != true,
    ])
    error_message = "the table's five columns are those of write_metadata without a schema"
  }
}

run "an_outage_of_bigquery_may_last_the_night" {
  command = plan

  assert {
    condition = alltrue([
      google_pubsub_subscription.bigquery.dead_letter_policy[0].max_delivery_attempts == 100,
      google_pubsub_subscription.bigquery.retry_policy[0].maximum_backoff == "600s",
    ])
    error_message = "events wait about 16 hours for BigQuery before they are dead letters"
  }
  assert {
    condition = alltrue([
      google_pubsub_topic.event.message_retention_duration == "604800s",
      google_pubsub_subscription.bigquery.message_retention_duration == "604800s",
    ])
    error_message = "for a week, seeking back replays every event"
  }
}

run "prod_protects_what_holds_data" {
  command = plan

  assert {
    condition     = alltrue(values(google_bigquery_table.bronze)[*].deletion_protection)
    error_message = "a bronze table must not be dropped or replaced"
  }
  assert {
    condition = alltrue([
      for policy in concat(values(google_bigquery_dataset.layer)[*].deletion_policy, [
        google_pubsub_subscription.bigquery.deletion_policy,
        google_pubsub_subscription.dead_letter.deletion_policy,
        google_pubsub_subscription.pull.deletion_policy,
        google_pubsub_topic.dead_letter.deletion_policy,
        google_pubsub_topic.event.deletion_policy,
        google_storage_bucket.raw.deletion_policy,
      ]) : policy == "PREVENT"
    ])
    error_message = "datasets, bucket, topics and subscriptions are protected"
  }
  assert {
    condition = !anytrue(concat(
      [google_storage_bucket.raw.force_destroy],
      values(google_bigquery_dataset.layer)[*].delete_contents_on_destroy,
    ))
    error_message = "a destroy must not take contents along"
  }
}

run "dev_can_be_torn_down" {
  command = plan

  variables {
    environment         = "dev"
    deletion_protection = false
  }

  assert {
    condition = alltrue([
      google_storage_bucket.raw.force_destroy,
      google_storage_bucket.raw.deletion_policy == "DELETE",
      !anytrue(values(google_bigquery_table.bronze)[*].deletion_protection),
    ])
    error_message = "dev's data can be fetched again"
  }
}

run "bucket_is_closed_and_keeps_raw_objects" {
  command = plan

  assert {
    condition = alltrue([
      google_storage_bucket.raw.public_access_prevention == "enforced",
      google_storage_bucket.raw.uniform_bucket_level_access,
      google_storage_bucket.raw.versioning[0].enabled,
    ])
    error_message = "the bucket is private, and versions are kept"
  }
  assert {
    condition = { NEARLINE = 30, COLDLINE = 90, ARCHIVE = 365 } == {
      for rule in google_storage_bucket.raw.lifecycle_rule :
      one(rule.action).storage_class => one(rule.condition).age
      if one(rule.action).type == "SetStorageClass"
    }
    error_message = "raw objects move to colder classes after 30, 90 and 365 days"
  }
  assert {
    condition = ["ARCHIVED"] == [
      for rule in google_storage_bucket.raw.lifecycle_rule :
      one(rule.condition).with_state
      if one(rule.action).type == "Delete"
    ]
    error_message = "only old versions are deleted: raw objects are bronze's source"
  }
  assert {
    condition = anytrue([
      for rule in google_storage_bucket.raw.lifecycle_rule :
      one(rule.action).type == "AbortIncompleteMultipartUpload"
    ])
    error_message = "unfinished uploads are removed"
  }
}

run "raw_objects_are_deleted_only_when_asked" {
  command = plan

  variables {
    raw_retention_days = 1000
  }

  assert {
    condition = [1000] == [
      for rule in google_storage_bucket.raw.lifecycle_rule :
      one(rule.condition).age
      if one(rule.action).type == "Delete" && one(rule.condition).with_state == "LIVE"
    ]
    error_message = "raw_retention_days deletes raw objects of that age"
  }
}

run "no_alert_without_an_address" {
  command = plan

  assert {
    condition = alltrue([
      length(google_monitoring_alert_policy.subscription) == 0,
      length(google_monitoring_notification_channel.email) == 0,
    ])
    error_message = "alerts are made only with alert_email"
  }
}

run "alerts_watch_the_way_into_bronze" {
  command = plan

  variables {
    alert_email = "data-team@example.com"
  }

  # carts-events-pull has no reader here
  assert {
    condition = {
      dead    = "carts-events-dead-letter-pull"
      refused = "carts-events-bigquery"
      stuck   = "carts-events-bigquery"
      } == {
      for alert, policy in google_monitoring_alert_policy.subscription :
      alert => regex("subscription_id = \"([^\"]+)\"", policy.conditions[0].condition_threshold[0].filter)[0]
    }
    error_message = "stuck and refused events and dead letters are told"
  }
}

run "labels_name_the_environment" {
  command = plan

  assert {
    condition = alltrue([
      for labels in [
        google_bigquery_table.bronze["users_raw"].effective_labels,
        google_pubsub_topic.event.effective_labels,
        google_storage_bucket.raw.effective_labels,
      ] : labels["environment"] == "prod"
    ])
    error_message = "costs are told apart by the label environment"
  }
}

run "gold_readers_read_gold_and_nothing_else" {
  command = plan

  variables {
    gold_readers = ["group:analysts@example.com", "serviceAccount:bi@fake-store-bi.iam.gserviceaccount.com"]
  }

  assert {
    condition = (
      { for grant in google_bigquery_dataset_iam_member.gold_reader : grant.member => "${grant.role} on ${grant.dataset_id}" } == {
        "group:analysts@example.com"                              = "roles/bigquery.dataViewer on gold_data"
        "serviceAccount:bi@fake-store-bi.iam.gserviceaccount.com" = "roles/bigquery.dataViewer on gold_data"
      }
    )
    error_message = "a gold reader views gold"
  }
}

run "raw_tables_are_not_read_without_a_partition_filter" {
  command = plan

  assert {
    condition = (
      { for name, table in google_bigquery_table.bronze : name => table.require_partition_filter } == {
        carts_events_raw = true
        carts_raw        = true
        ingestion_runs   = false
        products_raw     = true
        users_raw        = true
      }
    )
    error_message = "history is read by the day"
  }
}
