variable "alert_email" {
  description = "Address that is told when events are stuck, dead or refused by BigQuery; null makes no alert."
  type        = string
  default     = null

  validation {
    condition     = var.alert_email == null || can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", var.alert_email))
    error_message = "alert_email must be one e-mail address, or null for no alerts."
  }
}

variable "bq_dataset" {
  description = "BQ_DATASET in .env: the bronze dataset. Silver and gold have fixed names."
  type        = string
  default     = "bronze_data"

  validation {
    condition = alltrue([
      can(regex("^[A-Za-z_][A-Za-z0-9_]*$", var.bq_dataset)),
      !contains(["silver_data", "gold_data"], var.bq_dataset),
    ])
    error_message = "bq_dataset must be letters, digits and underscores, and neither silver_data nor gold_data, which dbt writes."
  }
}

variable "deletion_protection" {
  description = "Refuse to delete or replace what holds data: the bucket, datasets, bronze tables, topics and subscriptions."
  type        = bool
  default     = true
}

variable "environment" {
  description = "dev, staging or prod: a label on everything that carries labels. Each environment has its own project."
  type        = string

  validation {
    condition     = contains(["dev", "staging", "prod"], var.environment)
    error_message = "environment must be dev, staging or prod."
  }

  validation {
    # prod's variables applied to dev's state would move every resource to another project
    condition     = contains(["default", var.environment], terraform.workspace)
    error_message = "The workspace is not this environment's: run 'terraform workspace select -or-create' with the name in the .tfvars file."
  }
}

variable "event_retention" {
  description = "How long the topic and its subscriptions keep a message, for outages and replays: seconds with an s, ten minutes to 31 days."
  type        = string
  default     = "604800s" # a week: an outage over a weekend loses nothing

  validation {
    condition = alltrue([
      can(regex("^[0-9]+s$", var.event_retention)),
      try(tonumber(trimsuffix(var.event_retention, "s")), 0) >= 600,
      try(tonumber(trimsuffix(var.event_retention, "s")), 0) <= 2678400,
    ])
    error_message = "event_retention must be seconds followed by s, from 600s to 2678400s."
  }
}

variable "gcp_project_id" {
  description = "GCP_PROJECT_ID in .env: the project that everything is made in."
  type        = string

  validation {
    condition     = var.gcp_project_id != "your-project-id"
    error_message = "gcp_project_id is still the placeholder: write the project's id into .env, or into the .tfvars file where you use one."
  }

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.gcp_project_id))
    error_message = "gcp_project_id must be a project id: 6 to 30 lower-case letters, digits and hyphens, beginning with a letter; neither the project's name nor its number."
  }
}

variable "gcp_region" {
  description = "GCP_REGION in .env: one region for the bucket, the datasets and the stored messages. A load job needs bucket and dataset in one place."
  type        = string
  default     = "europe-west9"

  validation {
    condition     = contains(local.regions, var.gcp_region)
    error_message = "gcp_region is not a Google Cloud region such as europe-west9. Multi-regions (EU, US) do not do: Pub/Sub stores messages in regions. If the region is newer than this list, add it to regions.tf."
  }
}

variable "gcs_bucket_name" {
  description = "GCS_BUCKET_NAME in .env: the bucket of the raw objects. Bucket names are shared by all of Google Cloud."
  type        = string

  validation {
    condition     = var.gcs_bucket_name != "your-project-id-raw-data-2026-xyz"
    error_message = "gcs_bucket_name is still the placeholder: write a name into .env, or into the .tfvars file where you use one, such as my-shop-4711-raw-data-2026-k7q."
  }

  validation {
    # dots would ask for a verified domain; a bare word was taken long ago
    condition = alltrue([
      can(regex("^[a-z0-9][a-z0-9_-]{4,61}[a-z0-9]$", var.gcs_bucket_name)),
      can(regex("[0-9_-]", var.gcs_bucket_name)),
      !can(regex("^goog|google", var.gcs_bucket_name)),
    ])
    error_message = "gcs_bucket_name must be 6 to 63 lower-case letters, digits, hyphens and underscores, not a single common word and without 'google': the name must be free in all of Google Cloud, so begin it with the project's id."
  }
}

variable "gold_readers" {
  description = "Who may read the gold dataset, and nothing else, such as group:analysts@example.com or a BI tool's serviceAccount:bi@my-project.iam.gserviceaccount.com."
  type        = set(string)
  default     = []

  validation {
    condition = alltrue([
      for member in var.gold_readers :
      can(regex("^(user|group|domain|serviceAccount|principal|principalSet):.+$", member))
    ])
    error_message = "gold_readers must be members with their kind, such as user:ana@example.com or group:analysts@example.com; everybody (allUsers) is never one."
  }
}

variable "iam_propagation_seconds" {
  description = "Wait between granting the Pub/Sub agent its roles and making the BigQuery subscription, which checks them. Two minutes are usual."
  type        = number
  default     = 120

  validation {
    condition     = var.iam_propagation_seconds >= 0 && floor(var.iam_propagation_seconds) == var.iam_propagation_seconds
    error_message = "iam_propagation_seconds must be a whole number of seconds, 0 or more."
  }
}

variable "impersonators" {
  description = "Who may act as the two service accounts without a key, such as user:ana@example.com or group:data@example.com."
  type        = set(string)
  default     = []

  validation {
    condition = alltrue([
      for member in var.impersonators :
      can(regex("^(user|group|serviceAccount|principal|principalSet):.+$", member))
    ])
    error_message = "impersonators must be members with their kind, such as user:ana@example.com or group:data@example.com; everybody (allUsers) is never one."
  }
}

variable "raw_retention_days" {
  description = "Delete raw objects of this age; null, the default, keeps them: bronze can be rebuilt from them."
  type        = number
  default     = null

  validation {
    # after the last move to a colder class, whose minimum storage time is billed anyway
    condition     = var.raw_retention_days == null ? true : var.raw_retention_days >= 730
    error_message = "raw_retention_days must be null, which keeps raw objects, or at least 730: Archive bills a year from day 365 on."
  }
}
