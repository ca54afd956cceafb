provider "google" {
  project = var.gcp_project_id
  region  = var.gcp_region

  default_labels = {
    application = "fake-store-pipeline"
    environment = var.environment
    managed_by  = "terraform"
  }
}
