# One object, index.html, replaced each day and made from gold alone: what is deleted here comes back
# with the next report. It is private; report_readers may read it.
locals {
  report_bucket_name = coalesce(var.report_bucket_name, "${var.gcp_project_id}-report")
}

resource "google_storage_bucket" "report" {
  # checkov:skip=CKV_GCP_62: access logs would need a further bucket; Cloud Audit Logs record data access where an organisation wants it
  # checkov:skip=CKV_GCP_78: a report can be made again from gold
  for_each = toset(local.is_unattended ? ["report"] : [])

  name     = local.report_bucket_name
  location = var.gcp_region

  public_access_prevention    = "enforced"
  uniform_bucket_level_access = true

  deletion_policy = local.deletion_policy
  force_destroy   = !var.deletion_protection
}

resource "google_storage_bucket_iam_member" "report_reader" {
  for_each = local.is_unattended ? var.report_readers : []

  bucket = google_storage_bucket.report["report"].name
  role   = "roles/storage.objectViewer"
  member = each.key
}
