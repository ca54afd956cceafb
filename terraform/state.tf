# The poller's memory, near_realtime/…: state, outbox, event store and dead letters. Every object is
# written once under a name of its own, but head.json, which each poll replaces.
#
# Nothing is deleted by age: the state that head.json names is as old as the last change in the shop.
# What the poller itself deletes or replaces is kept for a week by soft delete, once; versions would
# keep it a second time, and a version put back by hand is an old state, which the poller refuses.
locals {
  state_bucket_name = coalesce(var.state_bucket_name, "${var.gcp_project_id}-near-realtime-state")
}

resource "google_storage_bucket" "state" {
  # checkov:skip=CKV_GCP_62: access logs would need a further bucket; Cloud Audit Logs record data access where an organisation wants it
  # checkov:skip=CKV_GCP_78: soft delete keeps what is replaced or deleted, see above
  for_each = toset(local.is_unattended ? ["state"] : [])

  name     = local.state_bucket_name
  location = var.gcp_region

  public_access_prevention    = "enforced"
  uniform_bucket_level_access = true

  deletion_policy = local.deletion_policy
  force_destroy   = !var.deletion_protection

  soft_delete_policy {
    retention_duration_seconds = 7 * 24 * 3600
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age        = 1
      with_state = "ANY"
    }
  }
}
