# The raw objects, raw/{entity}/date=…/run_id=…/data.json: the source that bronze is rebuilt from.
resource "google_storage_bucket" "raw" {
  # checkov:skip=CKV_GCP_62: access logs would need a second bucket; Cloud Audit Logs record data access where an organisation wants it
  name     = var.gcs_bucket_name
  location = var.gcp_region

  public_access_prevention    = "enforced"
  uniform_bucket_level_access = true

  deletion_policy = local.deletion_policy
  # a protected bucket with objects in it survives even a destroy that has been let through
  force_destroy = !var.deletion_protection

  # The scripts never overwrite an object and may not delete one. Versions undo what a person does,
  # soft delete undoes the deletion of versions.
  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = 7 * 24 * 3600
  }

  # read by its load job and by a --resume within days, afterwards only to rebuild bronze
  dynamic "lifecycle_rule" {
    for_each = { NEARLINE = 30, COLDLINE = 90, ARCHIVE = 365 }
    iterator = colder

    content {
      action {
        type          = "SetStorageClass"
        storage_class = colder.key
      }
      condition {
        age            = colder.value
        matches_prefix = ["raw/"]
        with_state     = "LIVE"
      }
    }
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      days_since_noncurrent_time = 30
      with_state                 = "ARCHIVED"
    }
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

  dynamic "lifecycle_rule" {
    for_each = var.raw_retention_days[*]
    iterator = days

    content {
      action {
        type = "Delete"
      }
      condition {
        age            = days.value
        matches_prefix = ["raw/"]
        with_state     = "LIVE"
      }
    }
  }
}
