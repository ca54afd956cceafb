# The day: batch, then dbt, then the report; workflows/daily.yaml says in which case what.
resource "google_workflows_workflow" "daily" {
  for_each = toset(local.is_unattended ? ["daily"] : [])

  name                = "fake-store-daily"
  description         = "Batch ingestion, dbt and the report, one after the other and never two at once."
  region              = var.gcp_region
  service_account     = google_service_account.unattended["workflow"].id
  source_contents     = file("${path.module}/workflows/daily.yaml")
  deletion_protection = false # it holds no data

  user_env_vars = {
    # what to run, and the arguments that the workflow adds to
    JOBS = jsonencode({
      for name, job in local.daily_jobs : name => {
        name = join("/", ["projects", var.gcp_project_id, "locations", var.gcp_region, "jobs", google_cloud_run_v2_job.stage[name].name])
        args = job.args
      }
    })
  }
}
