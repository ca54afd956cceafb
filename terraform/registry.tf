# Where `make push` puts the image. It is needed before there is a digest to give as `image`, so it
# has a switch of its own. Old images stay until somebody deletes them: a rule that keeps the newest
# would one day take the one that runs.
resource "google_artifact_registry_repository" "image" {
  # checkov:skip=CKV_GCP_84: encrypted with Google's keys; images can be built again
  for_each = toset(var.registry || local.is_unattended ? ["image"] : [])

  repository_id = "fake-store"
  description   = "Images of the Fake Store pipeline."
  location      = var.gcp_region
  format        = "DOCKER"
}
