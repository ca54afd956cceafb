environment = "staging"

# The two placeholders are refused until they are edited.
gcp_project_id  = "your-project-id"
gcs_bucket_name = "your-project-id-raw-data-2026-xyz"
gcp_region      = "europe-west9"

# what holds data is neither deleted nor replaced
deletion_protection = true

# image          = "europe-west9-docker.pkg.dev/your-project-id/fake-store/pipeline@sha256:…"
# alert_email    = "data-team@example.com"
# impersonators  = ["group:data-team@example.com"]
# gold_readers   = ["group:analysts@example.com"]
