terraform {
  # 1.9: a validation may look at more than its own variable
  required_version = ">= 1.9"

  required_providers {
    google = {
      source = "hashicorp/google"
      # 8 brought deletion_policy to every resource
      version = "~> 8.7"
    }
  }
}
